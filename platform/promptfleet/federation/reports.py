"""Reports of a federation: plain values that become ``result.json``, MLflow metrics and figures."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from promptfleet.federation.evaluation.calibration import Calibration, calibration, calibration_of_tallies
from promptfleet.federation.evaluation.scores import (
    LOCAL,
    TEST,
    VAL,
    Evaluation,
    Score,
    SetAccuracy,
    client_accuracies,
    harmonic_of_means,
    honest_mean,
    participation_gap,
    set_accuracies,
    set_name,
)
from promptfleet.federation.frames import client_rounds_frame, clients_frame, rounds_frame
from promptfleet.methods.protocol import State
from promptfleet.strict_json import Count, Counts, parse_json, to_json

if TYPE_CHECKING:
    from pandas import DataFrame

LONGEST_WITHOUT_UPDATE = 3  # rounds, before a federation counts as learning nothing


@dataclass(frozen=True)
class TrainReport:
    """Report of one client's local update: the method's figures, bytes of the real protocol, seconds.

    ``node`` is the address of its node, if Ray ran it.
    """

    metrics: Mapping[str, float]
    downloaded_bytes: Count
    uploaded_bytes: Count
    seconds: float
    node: str | None = None


@dataclass(frozen=True)
class Event:
    """Something that went wrong in a round, and the reaction.

    ``stage`` is the step of the round, ``clients`` are the clients concerned, if any, ``what`` happened, ``action`` was
    taken.
    """

    stage: str
    clients: Counts
    what: str
    action: str

    def __str__(self) -> str:
        who = f"client{'s' if len(self.clients) > 1 else ''} {_listed(self.clients)}: " if self.clients else ""
        return f"{self.stage}: {who}{self.what}; {self.action}"


@dataclass(frozen=True)
class RoundReport:
    """One communication round. Accuracies are fractions in 0..1 and means over all clients; time in seconds.

    ``client_seconds`` is the time of training, all clients of the round together.
    ``downloaded_bytes`` and ``uploaded_bytes`` are those of the real protocol, all clients of the round together.
    ``simulated_time`` is when the server stopped waiting, in updates of the median client (see ``config.faults``).
    ``dropped`` are clients of the cohort without an upload, ``rejected`` those whose upload the server refused,
    with the reason. ``nodes`` says how many clients trained on which node, by its address, where Ray ran them.
    ``train_metrics`` are means over the cohort of all figures that the method reports, over the clients that report
    them; ``train_loss`` is one of them. A mean is None where one of its values is not finite, ``train_loss`` also where
    no client has a loss.
    ``honest_`` are means over the clients that do not attack (see ``config.adversary``); ``epsilon_spent`` is what
    privacy has cost a client by now, None without it (see ``config.privacy``).
    ``accuracy`` has all evaluation sets of the round by name, such as ``test/global``, and the harmonic means per
    client; ``client_accuracy`` the accuracy of each client on the sets other than ``local``. A round that was not
    evaluated has None for accuracies and no accuracies of clients; a client that was not evaluated has None.
    """

    round: int
    cohort: Counts
    train_loss: float | None
    val_accuracy: float | None
    val_accuracy_min: float | None
    val_accuracy_std: float | None
    test_accuracy: float | None
    test_accuracy_min: float | None
    test_accuracy_std: float | None
    downloaded_bytes: Count
    uploaded_bytes: Count
    seconds: float
    honest_val_accuracy: float | None
    honest_test_accuracy: float | None
    epsilon_spent: float | None
    rejected: Mapping[Count, str]
    dropped: Mapping[Count, str]
    simulated_time: float
    events: Sequence[Event]
    client_val_accuracy: Sequence[float | None]
    client_test_accuracy: Sequence[float | None]
    nodes: Mapping[str, int] = field(default_factory=dict)
    train_metrics: Mapping[str, float | None] = field(default_factory=dict)
    client_seconds: float = 0.0
    accuracy: Mapping[str, SetAccuracy] = field(default_factory=dict)
    client_accuracy: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    calibration: Calibration | None = None
    set_calibration: Mapping[str, Calibration] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        round_index: int,
        cohort: Sequence[int],
        trained: Sequence[TrainReport],
        rejected: Mapping[int, str],
        evaluations: Sequence[Evaluation],
        seconds: float,
        *,
        dropped: Mapping[int, str] | None = None,
        simulated_time: float = 1.0,
        events: Sequence[Event] = (),
        adversaries: Collection[int] = (),
        epsilon_spent: float | None = None,
        clients: int | None = None,
    ) -> "RoundReport":
        """Summarize a round of a federation with that many ``clients``, by default those of ``evaluations``."""
        accuracy = set_accuracies(evaluations)
        val, test = (accuracy.get(set_name(part, LOCAL)) for part in (VAL, TEST))
        by_client = {evaluation.client: evaluation for evaluation in evaluations}
        everybody = [by_client.get(client) for client in range(clients or len(evaluations))] if evaluations else []
        metrics = _means([report.metrics for report in trained])
        return cls(
            round=round_index,
            cohort=list(cohort),
            train_loss=metrics.get("loss"),
            val_accuracy=val and val.mean,
            val_accuracy_min=val and val.min,
            val_accuracy_std=val and val.std,
            test_accuracy=test and test.mean,
            test_accuracy_min=test and test.min,
            test_accuracy_std=test and test.std,
            downloaded_bytes=sum(report.downloaded_bytes for report in trained),
            uploaded_bytes=sum(report.uploaded_bytes for report in trained),
            seconds=seconds,
            honest_val_accuracy=honest_mean(evaluations, VAL, adversaries),
            honest_test_accuracy=honest_mean(evaluations, TEST, adversaries),
            epsilon_spent=epsilon_spent,
            rejected=dict(rejected),
            dropped=dict(dropped or {}),
            simulated_time=simulated_time,
            events=list(events),
            client_val_accuracy=[one and one.val_accuracy for one in everybody],
            client_test_accuracy=[one and one.test_accuracy for one in everybody],
            nodes=dict(sorted(Counter(report.node for report in trained if report.node).items())),
            train_metrics=metrics,
            client_seconds=sum(report.seconds for report in trained),
            accuracy=accuracy,
            client_accuracy=_client_accuracy(everybody),
            calibration=_calibration(evaluations),
            set_calibration=_set_calibration(evaluations),
        )


def nothing_accepted(reports: Sequence[RoundReport], rounds: int) -> str | None:
    """Return the reason why a federation of ``rounds`` learns nothing; None if the server accepts updates.

    It learns nothing once every update was rejected in the last three rounds, or in all if there are fewer. Rounds in
    which no update arrived count neither way.
    """
    refused: list[RoundReport] = []
    for report in reversed(reports):
        if set(report.cohort) - set(report.rejected) - set(report.dropped):
            break
        refused += [report] if report.rejected else []
    if len(refused) < min(LONGEST_WITHOUT_UPDATE, rounds):
        return None
    client, why = min(refused[0].rejected.items())
    return f"no update was accepted in {len(refused)} rounds, the last time since client {client}'s {why}"


def best_round(reports: Sequence[RoundReport]) -> RoundReport:
    """Return the evaluated round of the highest validation accuracy over the honest clients, of equals the first.

    Before any round is evaluated it is the first.
    """
    return max(reports, key=lambda report: -math.inf if (value := report.honest_val_accuracy) is None else value)


def last_evaluated(reports: Sequence[RoundReport]) -> RoundReport | None:
    """Return the last round that was evaluated, None if there is none."""
    return next((report for report in reversed(reports) if report.accuracy), None)


@dataclass(frozen=True)
class ClientReport:
    """Report of one client at the end. ``zero_shot_accuracy`` is untrained CLIP's on the same test part.

    Accuracies are None for a client that was not evaluated yet, and on its own parts for one that is ``held_out``: it
    never trains. Other clients of a complete federation have them.

    ``label_counts`` and ``domain_counts`` (empty without domains) are over all its samples. ``accuracy`` has all
    evaluation sets by name, and the harmonic means of pairs of them.
    """

    id: Count
    num_train: Count
    num_val: Count
    num_test: Count
    val_accuracy: float | None
    test_accuracy: float | None
    zero_shot_accuracy: float
    label_counts: Counts
    domain_counts: Counts
    described: Mapping[str, Sequence[int | float | None]]
    accuracy: Mapping[str, float] = field(default_factory=dict)
    calibration: Mapping[str, float] = field(default_factory=dict)
    held_out: bool = False


@dataclass(frozen=True, repr=False)
class FederationSummary:
    """Results of a federation in plain values. Accuracies are means over clients after the last round.

    In the middle of a federation that does not evaluate each round, they are those of the last evaluated one.

    ``best_round`` is the round of the highest validation accuracy; ``partition_sha256`` tells who holds which
    samples, ``state_sha256`` the final states; ``trained_parameters`` are those of one client. ``checkpoint_bytes`` and
    ``checkpoint_seconds`` are what writing the last checkpoint took, None where none was kept.
    ``domain_label_counts`` is ``[domains][classes]``, over the samples that clients hold. ``honest_`` accuracies are
    means over the clients that are no ``adversaries``; ``noise_multiplier`` and ``epsilon_spent`` are of privacy.
    ``accuracy`` has the evaluation sets after the last round by name, such as ``test/global``, and
    ``best_round_accuracy`` those after the best one; ``zero_shot`` has untrained CLIP's on the test sets;
    docs/evaluation.md defines each.
    """

    config: Mapping[str, Any]
    seed: int
    method: str
    dataset: str
    class_names: Sequence[str]
    domain_names: Sequence[str]
    domain_label_counts: Sequence[Counts]
    partition_sha256: str
    trained_parameters: Count
    rounds: Sequence[RoundReport]
    clients: Sequence[ClientReport]
    val_accuracy: float
    test_accuracy: float
    zero_shot_accuracy: float
    adversaries: Counts
    honest_val_accuracy: float
    honest_test_accuracy: float
    noise_multiplier: float | None
    epsilon_spent: float | None
    best_round: int
    best_round_test_accuracy: float
    state_sha256: str
    seconds: float
    checkpoint_bytes: Count | None = field(default=None, kw_only=True)
    checkpoint_seconds: float | None = field(default=None, kw_only=True)
    accuracy: Mapping[str, SetAccuracy] = field(default_factory=dict, kw_only=True)
    best_round_accuracy: Mapping[str, SetAccuracy] = field(default_factory=dict, kw_only=True)
    zero_shot: Mapping[str, SetAccuracy] = field(default_factory=dict, kw_only=True)

    @property
    def calibration(self) -> Calibration | None:
        """Calibration on the clients' own test parts in the last round that has it."""
        return next((report.calibration for report in reversed(self.rounds) if report.calibration), None)

    @property
    def set_calibration(self) -> Mapping[str, Calibration]:
        """Calibration on ``test/base`` and ``test/new`` in the last round that has it."""
        return next((report.set_calibration for report in reversed(self.rounds) if report.set_calibration), {})

    @property
    def harmonic_of_means(self) -> Mapping[str, float]:
        """Harmonic means of the means of two sets after the last round, by a name such as ``test/local_global``."""
        return harmonic_of_means(self.accuracy)

    @property
    def participation_gap(self) -> Mapping[str, float]:
        """Mean accuracy of the clients that train minus that of unseen clients, by the set of the latter."""
        return participation_gap(self.accuracy)

    @property
    def seen_clients(self) -> list[ClientReport]:
        """Reports of the clients that may train: all but those that are held out."""
        return [client for client in self.clients if not client.held_out]

    def __repr__(self) -> str:
        what = f"{self.method} on {self.dataset}, seed={self.seed}, clients={len(self.clients)}"
        return f"{type(self).__name__}({what}, rounds={len(self.rounds)}, test_accuracy={self.test_accuracy:.4f})"

    def to_json(self) -> str:
        """Return the summary as JSON text, which ``summary_from_json`` reads; the states of a result are left out."""
        plain = {
            **{field.name: getattr(self, field.name) for field in fields(FederationSummary)},
            "rounds": [asdict(report) for report in self.rounds],
            "clients": [asdict(report) for report in self.clients],
            "accuracy": {name: asdict(one) for name, one in self.accuracy.items()},
            "best_round_accuracy": {name: asdict(one) for name, one in self.best_round_accuracy.items()},
            "zero_shot": {name: asdict(one) for name, one in self.zero_shot.items()},
            "harmonic_of_means": self.harmonic_of_means,
            "participation_gap": self.participation_gap,
        }
        return to_json(plain)

    def rounds_frame(self) -> "DataFrame":
        """Return a pandas table with one row per ``round``.

        Columns are the figures of ``RoundReport``: accuracies in 0..1, bytes, seconds. ``cohort``, ``rejected``,
        ``dropped`` and ``events`` are counts, ``train/NAME`` are further figures of the method, ``accuracy/SET`` the
        means of the evaluation sets. A missing value is NaN.
        """
        return rounds_frame(self)

    def clients_frame(self) -> "DataFrame":
        """Return a pandas table with one row per ``client``: its samples, and its accuracies after the last round."""
        return clients_frame(self)

    def client_rounds_frame(self) -> "DataFrame":
        """Return a pandas table with one row per ``round`` and ``client``, for learning curves.

        Columns are ``val_accuracy``, ``test_accuracy`` and ``accepted``: the server used the client's update.
        """
        return client_rounds_frame(self)


@dataclass(frozen=True, repr=False)
class FederationResult(FederationSummary):
    """A federation's summary, and the final states of the server and of each client.

    The tables are for pandas:

    >>> import promptfleet
    >>> quick = {"method": "promptfl", "clients": 3, "rounds": 2, "local_epochs": 1, "runtime.backend": "local"}
    >>> result = promptfleet.run_federation(quick)
    >>> result.rounds_frame()["test_accuracy"].tolist()[-1] == result.test_accuracy
    True
    >>> list(result.clients_frame().columns[:3])
    ['num_train', 'num_val', 'num_test']
    >>> result.client_rounds_frame()["test_accuracy"].unstack().shape  # [rounds, clients]
    (2, 3)
    >>> promptfleet.summary_from_json(result.to_json()).test_accuracy == result.test_accuracy
    True
    """

    server: State
    privates: Mapping[int, State]

    @classmethod
    def of(cls, summary: FederationSummary, server: State, privates: Mapping[int, State]) -> "FederationResult":
        return cls(**vars(summary), server=server, privates=privates)


def summary_from_json(text: str | bytes) -> FederationSummary:
    """Read what ``to_json`` wrote. Raises ValueError, in one line: a value that is missing or cannot be."""
    summary = _with_local_sets(parse_json(FederationSummary, text))
    check_rounds(summary.rounds, clients=len(summary.clients))
    if not 1 <= summary.best_round <= len(summary.rounds):
        raise ValueError(f"best_round is {summary.best_round} of {len(summary.rounds)}")
    classes, domains = len(summary.class_names), len(summary.domain_names)
    for client in summary.clients:
        if (len(client.label_counts), len(client.domain_counts)) != (classes, domains):
            raise ValueError(f"client {client.id} has not one count for each class and domain")
    if len(summary.domain_label_counts) != domains or any(len(row) != classes for row in summary.domain_label_counts):
        raise ValueError("domain_label_counts has not one count for each domain and class")
    return summary


def _with_local_sets(summary: FederationSummary) -> FederationSummary:
    """Return the summary with the accuracies of ``local`` sets, which results without named sets lack."""
    if summary.accuracy or not summary.rounds:
        return summary
    rounds = [_round_with_local_sets(report, summary.clients) for report in summary.rounds]
    best = next((report.accuracy for report in rounds if report.round == summary.best_round), {})
    clients = [
        replace(one, accuracy={set_name(VAL, LOCAL): one.val_accuracy, set_name(TEST, LOCAL): one.test_accuracy})
        for one in summary.clients
    ]
    return replace(summary, rounds=rounds, clients=clients, accuracy=rounds[-1].accuracy, best_round_accuracy=best)


def _round_with_local_sets(report: RoundReport, clients: Sequence[ClientReport]) -> RoundReport:
    sets = {
        set_name(VAL, LOCAL): (report.client_val_accuracy, [client.num_val for client in clients]),
        set_name(TEST, LOCAL): (report.client_test_accuracy, [client.num_test for client in clients]),
    }
    scores = {
        name: [Score(value, size) for value, size in zip(*columns, strict=False) if value is not None]
        for name, columns in sets.items()
    }
    return replace(report, accuracy={name: SetAccuracy.of(ones) for name, ones in scores.items() if ones})


def check_rounds(reports: Sequence[RoundReport], *, clients: int) -> None:
    """Raise ValueError unless the reports are of the rounds 1, 2, ... of a federation of ``clients``."""
    for number, report in enumerate(reports, start=1):
        if report.round != number:
            raise ValueError(f"round {report.round} is in the place of round {number}")
        expected = clients if report.accuracy else 0
        if {len(report.client_val_accuracy), len(report.client_test_accuracy)} != {expected}:
            raise ValueError(f"round {number} has not one accuracy for each of {clients} clients")
        if any(len(accuracies) != clients for accuracies in report.client_accuracy.values()):
            raise ValueError(f"round {number} has a set without one accuracy for each of {clients} clients")
        if any(client >= clients for client in [*report.cohort, *report.rejected, *report.dropped]):
            raise ValueError(f"round {number} has a client that is none of {clients}")


def _calibration(evaluations: Sequence[Evaluation]) -> Calibration | None:
    certainties = [one.certainty for one in evaluations if one.certainty is not None]
    return calibration(certainties) if certainties else None


def _set_calibration(evaluations: Sequence[Evaluation]) -> dict[str, Calibration]:
    names = sorted({name for one in evaluations for name in one.tallies})
    return {
        name: calibration_of_tallies([one.tallies[name] for one in evaluations if name in one.tallies])
        for name in names
    }


def _client_accuracy(evaluations: Sequence[Evaluation | None]) -> dict[str, list[float | None]]:
    """Return the accuracy of each client by set, but for ``local``; None for a client without one."""
    found = [client_accuracies(one) if one else {} for one in evaluations]
    names = sorted({name for one in found for name in one} - {set_name(part, LOCAL) for part in (VAL, TEST)})
    return {name: [one.get(name) for one in found] for name in names}


def _means(reported: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    """Return the mean of each metric over the clients that report it; None if one of its values is not finite."""
    names = dict.fromkeys(name for metrics in reported for name in metrics)
    values = {name: [metrics[name] for metrics in reported if name in metrics] for name in names}
    return {name: fmean(of) if all(map(math.isfinite, of)) else None for name, of in values.items()}


def _listed(clients: Sequence[int]) -> str:
    """Return client ids as ``3``, ``1, 4`` or ``0-49``."""
    if len(clients) > 2 and clients[-1] - clients[0] == len(clients) - 1:
        return f"{clients[0]}-{clients[-1]}"
    return ", ".join(map(str, clients))
