"""Findings of a comparison as values, files and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from promptfleet.comparison.judgements import (
    JUDGEMENT_HEADERS,
    JUDGEMENT_LEGEND,
    Judgement,
    judge_methods,
    judgement_rows,
)
from promptfleet.comparison.reference import HEADERS as REFERENCE_HEADERS
from promptfleet.comparison.reference import Reference, reference_rows, references_for
from promptfleet.comparison.scores import MethodScore, client_accuracy, score_methods
from promptfleet.comparison.significance import Difference, differences_to_best
from promptfleet.comparison.tables import HEADERS, LEGEND, latex_table, markdown_table, table_rows
from promptfleet.escaping import markdown
from promptfleet.federation.reports import FederationSummary
from promptfleet.strict_json import to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JSON_FILE = "comparison.json"


@dataclass(frozen=True)
class ComparisonReport:
    """Scores by method, differences to the best one, and the results behind them.

    ``tuned`` has the values that tuning chose by method, ``failed`` describes the federations without a result.
    ``references`` are published tables for the same dataset, if they were requested.
    """

    results: Mapping[tuple[str, int], FederationSummary]
    scores: Sequence[MethodScore]
    differences: Sequence[Difference]
    tuned: Mapping[str, Mapping[str, Any]]
    failed: Sequence[str]
    references: Sequence[Reference] | None

    @property
    def rows(self) -> list[list[str]]:
        return table_rows(self.scores, self.differences)

    @property
    def judgements(self) -> list[Judgement]:
        """Further judgements by method."""
        return judge_methods(self.results)

    @property
    def judgement_rows(self) -> list[list[str]]:
        return judgement_rows(self.judgements, [row[0] for row in self.rows])

    def to_json(self) -> str:
        plain = {
            "scores": [asdict(score) for score in self.scores],
            "judgements": [asdict(judgement) for judgement in self.judgements],
            "differences_to_best": [asdict(difference) for difference in self.differences],
            "tuned": {method: dict(values) for method, values in self.tuned.items()},
            "failed": list(self.failed),
            "federations": [
                {
                    "method": method,
                    "seed": seed,
                    "partition_sha256": result.partition_sha256,
                    "state_sha256": result.state_sha256,
                    "cohorts": [list(report.cohort) for report in result.rounds],
                    "client_test_accuracy": [client.test_accuracy for client in result.seen_clients],
                    "config": dict(result.config),
                }
                for (method, seed), result in self.results.items()
            ],
        }
        return to_json(plain)

    def to_markdown(self) -> str:
        """Return the table, the legend of its columns, and the published figures."""
        parts = [markdown_table(self.rows), f"{LEGEND}\n"]
        parts += [markdown_table(self.judgement_rows, JUDGEMENT_HEADERS, bold=1), f"{JUDGEMENT_LEGEND}\n"]
        parts += [f"Failed: {markdown(text)}\n" for text in self.failed]
        for reference in self.references or ():
            if not reference.differs:
                parts += [f"{reference.name} of the paper:\n", self._reference_table(reference)]
        return "\n".join(parts)

    def _reference_table(self, reference: Reference) -> str:
        note = f"\n({reference.note})\n" if reference.note else ""
        return markdown_table(reference_rows(reference, self.scores), REFERENCE_HEADERS) + note

    def files(self) -> dict[str, str]:
        """Return the text files of a comparison by name."""
        return {
            JSON_FILE: self.to_json(),
            "comparison.md": self.to_markdown(),
            "comparison.tex": latex_table(self.rows, HEADERS),
            "evaluation.tex": latex_table(self.judgement_rows, JUDGEMENT_HEADERS, bold=1),
        }

    def figures(self) -> "list[tuple[str, Callable[[], Figure]]]":
        """Return name and drawing function of each figure."""
        from promptfleet.figures.comparison import client_boxes_figure, method_lines_figure

        ranked = sorted(self.scores, key=lambda score: -score.test_accuracy.mean)
        mean = {score.method: [one.mean for one in score.accuracy_by_round] for score in ranked}
        spread = {score.method: [one.std for one in score.accuracy_by_round] for score in ranked}
        rounds = ranked[0].evaluated_rounds
        seeds = max(len(score.seeds) for score in ranked)
        accuracy = client_accuracy(self.results)
        clients = {
            score.method: [value for clients in accuracy[score.method].values() for value in clients]
            for score in ranked
        }
        return [
            ("methods", lambda: method_lines_figure(mean, spread, rounds, seeds=seeds)),
            ("clients", lambda: client_boxes_figure(clients, seeds=seeds)),
            *self._set_figures([score.method for score in ranked]),
        ]

    def _set_figures(self, order: Sequence[str]) -> "list[tuple[str, Callable[[], Figure]]]":
        """Return the figures of evaluation sets and of calibration, where federations have them."""
        from promptfleet.figures.evaluation import local_global_figure, reliability_figure, sets_figure

        by_method = {one.method: one.sets for one in self.judgements}
        sets = {
            method: {name.removeprefix("test/"): value.mean for name, value in by_method[method].items()}
            for method in order
        }
        dots = {method: _local_and_global(self.results, method) for method in order}
        calibrations = {
            method: result.calibration
            for method in order
            for result in [next(one for (name, _), one in self.results.items() if name == method)]
            if result.calibration is not None
        }
        bins = {
            method: [(one.count, one.confidence, one.accuracy) for one in found.bins]
            for method, found in calibrations.items()
        }
        ece = {method: found.ece for method, found in calibrations.items()}
        return [
            ("sets", lambda: sets_figure(sets)),
            *([("local_global", lambda: local_global_figure(dots))] if all(one[0] for one in dots.values()) else []),
            *([("reliability", lambda: reliability_figure(bins, ece))] if bins else []),
        ]

    def metrics(self) -> dict[str, float]:
        """Return each method's metrics for the comparison's own run in MLflow."""
        return {
            f"{score.method.replace(':', '.')}/{name}": value
            for score in self.scores
            for name, value in (
                ("test_accuracy_mean", score.test_accuracy.mean),
                ("test_accuracy_std", score.test_accuracy.std),
                ("worst_client", score.worst_client.mean),
            )
        }


def _local_and_global(
    results: Mapping[tuple[str, int], FederationSummary], method: str
) -> tuple[list[float], list[float]]:
    """Return each client's accuracy on its own test part and on that of all clients, over all seeds."""
    clients = [client for (name, _), result in results.items() if name == method for client in result.clients]
    clients = [client.accuracy for client in clients if "test/global" in client.accuracy]
    return [one["test/local"] for one in clients], [one["test/global"] for one in clients]


def make_report(
    results: Mapping[tuple[str, int], FederationSummary],
    *,
    tuned: Mapping[str, Mapping[str, Any]],
    failed: Sequence[str],
    reference: str | None,
) -> ComparisonReport:
    """Return the report; results by method and seed, at least one; reference names a set of published tables."""
    scores, accuracy = score_methods(results), client_accuracy(results)
    settings = next(iter(results.values())).config
    return ComparisonReport(
        results=results,
        scores=scores,
        differences=differences_to_best(accuracy),
        tuned=tuned,
        failed=failed,
        references=references_for(settings, reference) if reference else None,
    )
