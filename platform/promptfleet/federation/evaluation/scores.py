"""Scores of clients by evaluation set, and their means over clients.

A set is named by its part and its samples, such as ``val/local`` or ``test/global``. docs/evaluation.md defines each.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, pstdev

from promptfleet.federation.evaluation.calibration import Certainty, Tally, calibration_errors
from promptfleet.strict_json import Count

VAL, TEST = "val", "test"
LOCAL, GLOBAL, OTHERS, SERVER, BASE, NEW = "local", "global", "others", "server", "base", "new"
UNSEEN_DOMAIN = "unseen_domain"
UNSEEN_DOMAIN_SERVER = f"{UNSEEN_DOMAIN}_{SERVER}"
UNSEEN_CLIENTS = "unseen_clients"
UNSEEN_CLIENTS_TUNED = f"{UNSEEN_CLIENTS}_tuned"
TRANSFER = "transfer"
CALIBRATION = "calibration"  # is asked for like a set: the confidence of predictions on local, base and new
PAIRS = ((LOCAL, GLOBAL), (BASE, NEW))  # sets of one part whose harmonic mean is reported
HARMONIC = "harmonic"


@dataclass(frozen=True)
class Score:
    """An accuracy in 0..1, and the number of samples that it is measured on."""

    accuracy: float
    samples: Count


@dataclass(frozen=True)
class Evaluation:
    """Scores of one client after a round, by evaluation set. ``described`` holds the method's own figures.

    The score of ``server`` is that of the server's model on the samples of all clients: one client measures it.
    ``calibration`` has the client's calibration errors: ``ece`` on its own test part, ``ece_base`` on ``base``. They
    follow from ``certainty`` and from ``tallies`` by set, which are dropped once they are pooled with other clients'.
    """

    client: Count
    scores: Mapping[str, Score]
    described: Mapping[str, Sequence[int | float | None]] = field(default_factory=dict)
    calibration: Mapping[str, float] = field(default_factory=dict)
    certainty: Certainty | None = None
    tallies: Mapping[str, Tally] = field(default_factory=dict)

    @property
    def val_accuracy(self) -> float | None:
        """Accuracy on the client's own validation part; None for a client that is held out."""
        return self._local(VAL)

    @property
    def test_accuracy(self) -> float | None:
        """Accuracy on the client's own test part; None for a client that is held out."""
        return self._local(TEST)

    def _local(self, part: str) -> float | None:
        score = self.scores.get(set_name(part, LOCAL))
        return score and score.accuracy

    def calibrated(self) -> "Evaluation":
        """Return the evaluation with the calibration errors that follow from its certainty and its tallies."""
        errors = calibration_errors(self.certainty) if self.certainty else {}
        for name, tally in self.tallies.items():
            errors |= {error_name(error, name): value for error, value in tally.errors().items()}
        return replace(self, calibration={**self.calibration, **errors})

    def uncertain(self) -> "Evaluation":
        """Return the evaluation without its certainty and its tallies."""
        return replace(self, certainty=None, tallies={})

    def merged(self, other: "Evaluation") -> "Evaluation":
        """Return the scores of two evaluations of the client after the same round."""
        return Evaluation(
            self.client,
            {**self.scores, **other.scores},
            {**self.described, **other.described},
            {**self.calibration, **other.calibration},
            self.certainty or other.certainty,
            {**self.tallies, **other.tallies},
        )

    def with_harmonic_means(self) -> dict[str, Score]:
        """Return all scores, and that of each harmonic mean whose pair is there; it counts the first one's samples."""
        scores = dict(self.scores)
        for part in (VAL, TEST):
            for pair in PAIRS:
                values = [self.scores.get(set_name(part, name)) for name in pair]
                if all(value is not None for value in values):
                    mean = harmonic_mean(value.accuracy for value in values)
                    scores[harmonic_name(part, pair)] = Score(mean, values[0].samples)
        return scores


@dataclass(frozen=True)
class SetAccuracy:
    """Accuracies of several clients on one evaluation set.

    ``std`` is the standard deviation over clients. ``bottom_decile`` is the accuracy at place n // 10 of n in ascending
    order, hence the minimum of fewer than ten. ``weighted_mean`` weighs clients by samples; ``clients`` is their
    number.
    """

    mean: float
    std: float
    min: float
    bottom_decile: float
    weighted_mean: float
    clients: Count

    @classmethod
    def of(cls, scores: Sequence[Score]) -> "SetAccuracy":
        """Average the scores of at least one client."""
        accuracies = [score.accuracy for score in scores]
        return cls(
            mean=fmean(accuracies),
            std=pstdev(accuracies),
            min=min(accuracies),
            bottom_decile=bottom_decile(accuracies),
            weighted_mean=fmean(accuracies, weights=[score.samples for score in scores]),
            clients=len(accuracies),
        )


def set_name(part: str, samples: str) -> str:
    """Return the name of an evaluation set, such as ``val/global``."""
    return f"{part}/{samples}"


def error_name(error: str, name: str) -> str:
    """Return the name of a calibration error on a test set, such as ``ece_base`` on ``test/base``."""
    return f"{error}_{name.removeprefix(set_name(TEST, ''))}"


def transfer_to(dataset: str) -> str:
    """Return the name of the samples of another dataset, such as ``transfer/dtd``."""
    return f"{TRANSFER}/{dataset}"


def harmonic_name(part: str, pair: Sequence[str]) -> str:
    """Return the name of the harmonic mean of two sets of a part, such as ``test/harmonic_local_global``."""
    return set_name(part, "_".join([HARMONIC, *pair]))


def names_of_sets(others: Iterable[str] = ()) -> list[str]:
    """Return the names of sets and harmonic means that a test part can have, such as ``global``.

    others: further datasets that prompts are tested on.
    """
    own, classes = ("_".join([HARMONIC, *pair]) for pair in PAIRS)
    unseen = (UNSEEN_CLIENTS, UNSEEN_CLIENTS_TUNED, UNSEEN_DOMAIN, UNSEEN_DOMAIN_SERVER)
    return [LOCAL, GLOBAL, own, OTHERS, SERVER, BASE, NEW, classes, *unseen, *map(transfer_to, others)]


def harmonic_mean(values: Iterable[float]) -> float:
    """Return the harmonic mean of accuracies; 0 if one of them is 0."""
    values = list(values)
    return len(values) / sum(1 / value for value in values) if all(values) else 0.0


def bottom_decile(accuracies: Sequence[float]) -> float:
    """Return the accuracy at place n // 10 in ascending order; of fewer than ten clients the minimum."""
    return sorted(accuracies)[len(accuracies) // 10]


def honest_mean(evaluations: Iterable[Evaluation], part: str, adversaries: Collection[int]) -> float | None:
    """Average a part's ``local`` accuracy over the clients that do not attack; None if none was evaluated."""
    name = set_name(part, LOCAL)
    honest = [one.scores[name].accuracy for one in evaluations if one.client not in adversaries and name in one.scores]
    return fmean(honest) if honest else None


def participation_gap(accuracy: Mapping[str, SetAccuracy]) -> dict[str, float]:
    """Return how much better clients that train are on their test parts than unseen ones, by the set of the latter."""
    seen, unseen = (
        accuracy.get(set_name(TEST, LOCAL)),
        [set_name(TEST, UNSEEN_CLIENTS), set_name(TEST, UNSEEN_CLIENTS_TUNED)],
    )
    return {name: seen.mean - accuracy[name].mean for name in unseen if name in accuracy}


def client_accuracies(evaluation: Evaluation) -> dict[str, float]:
    """Return the accuracies of one client by set, harmonic means among them; those of the server's model are not."""
    of_server = {set_name(part, name) for part in (VAL, TEST) for name in (SERVER, UNSEEN_DOMAIN_SERVER)}
    scores = evaluation.with_harmonic_means()
    return {name: scores[name].accuracy for name in sorted(scores.keys() - of_server)}


def set_accuracies(evaluations: Sequence[Evaluation]) -> dict[str, SetAccuracy]:
    """Average each set, and each harmonic mean per client, over the clients that have a score on it."""
    scores: dict[str, list[Score]] = {}
    for evaluation in evaluations:
        for name, score in evaluation.with_harmonic_means().items():
            scores.setdefault(name, []).append(score)
    return {name: SetAccuracy.of(some) for name, some in sorted(scores.items())}


def harmonic_of_means(accuracy: Mapping[str, SetAccuracy]) -> dict[str, float]:
    """Return the harmonic mean of two sets' means, by a name such as ``test/local_global``.

    It hides clients that are good on one of the sets only; ``test/harmonic_local_global`` does not.
    """
    found = {}
    for part in (VAL, TEST):
        for pair in PAIRS:
            means = [accuracy.get(set_name(part, name)) for name in pair]
            if all(mean is not None for mean in means):
                found[set_name(part, "_".join(pair))] = harmonic_mean(mean.mean for mean in means)
    return found
