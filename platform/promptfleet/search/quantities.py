"""Figures of a trial besides its objective: its cost, and the accuracy of its worst client."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from promptfleet.federation.reports import RoundReport
from promptfleet.search.objective import Objective

QUANTITIES = {
    "rounds": "communication rounds",
    "seconds": "seconds of its rounds",
    "client_seconds": "seconds that its clients trained, all of them together",
    "bytes_up": "bytes that clients uploaded, all rounds together",
    "bytes_down": "bytes that clients downloaded, all rounds together",
    "bytes": "both together",
    "bytes_per_round": "both together, mean over rounds",
    "worst_client": "lowest validation accuracy of a client after the last round",
}
GROWING = ("rounds", "seconds", "client_seconds", "bytes_up", "bytes_down", "bytes")  # they never fall
SHOWN = ("seconds", "bytes_up", "bytes_down", "worst_client")  # next to the test accuracy, as attributes of a trial
MEANS = ("bytes_per_round", "worst_client")  # over the federations of a trial; others are sums


@dataclass(frozen=True)
class RoundFigures:
    """Figures of a trial after a round, besides its objective: its quantities, and accuracies.

    ``clients`` are the values of each client whose mean is the objective; ``test_accuracy`` is a mean.
    """

    quantities: Mapping[str, float]
    clients: Sequence[float | None]
    test_accuracy: float | None = None

    @classmethod
    def of(
        cls,
        federations: Sequence[Sequence[RoundReport]],
        objective: Objective,
        adversaries: Sequence[Collection[int]],
    ) -> "RoundFigures":
        """Return those of a trial from the reports and attackers of its federations, which differ in their seed."""
        each = [quantities_of(reports) for reports in federations]
        quantities = {name: (fmean if name in MEANS else sum)(one[name] for one in each) for name in each[0]}
        last = [reports[-1] for reports in federations]
        test = [report.test_accuracy for report in last if report.test_accuracy is not None]
        clients = [value for one in zip(last, adversaries, strict=True) for value in objective.of_clients(*one)]
        return cls(quantities, clients, fmean(test) if test else None)

    def shown(self) -> dict[str, float]:
        """Return what Optuna's dashboard shows of the trial next to its objective."""
        test = {} if self.test_accuracy is None else {"test_accuracy": self.test_accuracy}
        return {**test, **{name: self.quantities[name] for name in SHOWN if name in self.quantities}}


def quantities_of(reports: Sequence[RoundReport]) -> dict[str, float]:
    """Return the figures of ``QUANTITIES`` for a federation after these rounds, of which there is at least one."""
    up, down = (sum(getattr(report, name) for report in reports) for name in ("uploaded_bytes", "downloaded_bytes"))
    accuracies = [value for value in reports[-1].client_val_accuracy if value is not None]
    return {
        "rounds": len(reports),
        "seconds": sum(report.seconds for report in reports),
        "client_seconds": sum(report.client_seconds for report in reports),
        "bytes_up": up,
        "bytes_down": down,
        "bytes": up + down,
        "bytes_per_round": (up + down) / len(reports),
        **({"worst_client": min(accuracies)} if accuracies else {}),
    }
