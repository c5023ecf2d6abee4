"""Local differential privacy of uploads: steps are clipped, and Gaussian noise is added before the upload.

The guarantee is (epsilon, delta)-differential privacy of one client's whole data set, against any observer of all its
uploads, the server included: each client adds its own noise. Any two data sets make steps at most ``2 * clip_norm``
apart, so noise of ``noise_multiplier`` times that is the Gaussian mechanism. It covers all rounds together, for the
client that is asked most often. Sampling gains no privacy: participants can be seen, and how often they take part is
known from the seed. Every client that a round asks counts as a sender, even if its upload is lost.

n uploads are exactly as private as one with noise smaller by sqrt(n) (Dong, Roth, Su, arXiv:1905.02383); the cost of
one is computed by opacus' PRV accountant (Gopi, Lee, Wutschitz, arXiv:2106.02848), an upper bound. Not covered: the
number of training examples, which weighs a mean, and the simulation's own reports (losses, accuracies). The noise is
NumPy's, drawn from the seed: right for a simulation, not for protecting real data.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import torch
from numpy.random import Generator

from promptfleet.config import FederationConfig, PrivacyConfig
from promptfleet.errors import ConfigError
from promptfleet.federation.conditions.cohort import asked_clients, sample_cohort, training_clients
from promptfleet.federation.conditions.steps import after_step, step_norm, step_of
from promptfleet.methods.protocol import Spec, State, UpTo

MOST_COUNTED_ROUNDS = 100_000  # counted in some three seconds
Participation = Callable[[FederationConfig, int], float]  # share of the clients that train in a round, from 1
_PRECISION = 0.01  # of epsilon, as a fraction of the budget


@dataclass(frozen=True)
class PrivacyBudget:
    """Budget of a client for all rounds together, and the noise that keeps to it.

    ``noise_multiplier`` is the standard deviation of the noise in units of the sensitivity, ``2 * clip_norm``.
    """

    epsilon: float
    delta: float
    clip_norm: float
    noise_multiplier: float

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise in each number of an upload."""
        return self.noise_multiplier * 2 * self.clip_norm

    def spent(self, cohorts: Iterable[Sequence[int]]) -> float:
        """Return the epsilon of the client that was in most of these cohorts; at most ``epsilon`` after all rounds."""
        uploads = most_uploads(cohorts)
        if uploads == 0:
            return 0.0
        return _epsilon(self.noise_multiplier / sqrt(uploads), self.delta, self.epsilon * _PRECISION)


def privacy_budget(config: FederationConfig, participation: Participation) -> PrivacyBudget | None:
    """Return the budget of a federation that asks this share of the clients in each round; None without privacy.

    Raises ConfigError as ``budget_for`` and ``planned_uploads`` do.
    """
    if config.privacy.epsilon == "none":
        return None
    return budget_for(config.privacy, planned_uploads(config, participation))


def budget_for(privacy: PrivacyConfig, uploads: int) -> PrivacyBudget:
    """Return the budget of a client that sends ``uploads``. Raises ConfigError if no noise is found for it."""
    noise = _noise_multiplier(privacy.epsilon, privacy.delta) * sqrt(uploads)
    return PrivacyBudget(privacy.epsilon, privacy.delta, privacy.clip_norm, noise)


def planned_uploads(config: FederationConfig, participation: Participation) -> int:
    """Return the number of uploads of the client that is asked most often, in all rounds together.

    An upper bound if there are more rounds than are counted, and each counted one asks all clients. Raises ConfigError:
    counting that would take minutes, since each round asks others.
    """
    clients, over_selection = len(training_clients(config)), config.faults.over_selection
    shares = [participation(config, index) for index in range(1, min(config.rounds, MOST_COUNTED_ROUNDS) + 1)]
    if all(asked_clients(clients, share, over_selection=over_selection) == clients for share in set(shares)):
        return config.rounds
    if config.rounds > MOST_COUNTED_ROUNDS:
        raise ConfigError(
            f"privacy.epsilon: how often each client is asked is counted for at most {MOST_COUNTED_ROUNDS} rounds, got "
            f"rounds={config.rounds}; lower it, or set participation=1"
        )
    return most_uploads(
        sample_cohort(config.seed, round_index, clients, share, over_selection=over_selection)
        for round_index, share in enumerate(shares, start=1)
    )


def check_noise_hides(config: FederationConfig, uploads: Mapping[str, Spec]) -> None:
    """Raise ConfigError if uploads shall be private and noise does not hide all of them.

    It hides trained real numbers; the number of them must be the same for all clients.
    """
    if config.privacy.epsilon == "none":
        return
    for name, spec in sorted(uploads.items()):
        if not spec.is_point:
            raise _not_hidden(name, "that is not trained" if spec.dtype.is_floating_point else f"of type {spec.dtype}")
    for name, spec in sorted(uploads.items()):
        if any(isinstance(size, UpTo) for size in spec.shape):
            raise _not_hidden(name, "whose size differs between clients")


def _not_hidden(name: str, what: str) -> ConfigError:
    return ConfigError(
        f"privacy.epsilon: the method uploads {name} {what}, and noise hides trained real numbers alone; set it to "
        "none, or use another method"
    )


def most_uploads(cohorts: Iterable[Sequence[int]]) -> int:
    """Return the largest number of cohorts with the same client."""
    return max(Counter(client for cohort in cohorts for client in cohort).values(), default=0)


def private_upload(upload: State, download: State, clip_norm: float, noise_std: float, rng: Generator) -> State:
    """Return the upload whose step from the download is clipped to ``clip_norm`` and has noise in each number.

    Raises ConfigError for counts and masks: Gaussian noise does not hide them.
    """
    if noise_std <= 0:
        raise ValueError("an upload needs noise to be private")
    for name, tensor in upload.items():
        if not tensor.is_floating_point():
            raise _not_hidden(name, f"of type {tensor.dtype}")
    step = step_of(upload, download)
    shorter = clip_norm / max(step_norm(step), clip_norm)
    noisy = {
        name: shorter * tensor + torch.from_numpy(rng.normal(0.0, noise_std, tuple(tensor.shape)))
        for name, tensor in step.items()
    }
    return after_step(upload, download, noisy)


@lru_cache
def _noise_multiplier(epsilon: float, delta: float) -> float:
    """Return the noise of a single upload that costs ``epsilon`` at ``delta``, or a little less."""
    from opacus.accountants.utils import get_noise_multiplier  # takes seconds, and no client process needs it

    precision = epsilon * _PRECISION
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of logarithms of zero
            return get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=1.0,
                steps=1,
                accountant="prv",
                epsilon_tolerance=precision,
                eps_error=precision,
            )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"privacy: no noise was found for epsilon={epsilon:g}, delta={delta:g} ({error})") from None


@lru_cache
def _epsilon(noise_multiplier: float, delta: float, precision: float) -> float:
    """Return the epsilon of a single upload."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(noise_multiplier, 1.0, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return max(0.0, float(accountant.get_epsilon(delta, eps_error=precision)))
