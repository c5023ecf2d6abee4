"""Findings of a comparison as values and files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from promptfleet.comparison.columns import MethodFigures
from promptfleet.comparison.contents import comparison_csv, comparison_tables
from promptfleet.comparison.drawings import drawings
from promptfleet.comparison.failures import Failure
from promptfleet.comparison.judgements import Judgement, evaluated_sets, judge_methods
from promptfleet.comparison.reference import HEADERS as REFERENCE_HEADERS
from promptfleet.comparison.reference import Reference, reference_rows, references_for
from promptfleet.comparison.scores import MethodScore, client_accuracy, score_methods, set_accuracy
from promptfleet.comparison.significance import Difference, differences_to_best
from promptfleet.comparison.tables import Table, as_latex, as_markdown
from promptfleet.escaping import markdown
from promptfleet.federation.reports import FederationSummary
from promptfleet.strict_json import to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JSON_FILE = "comparison.json"
TABLE_FILES = {"Markdown": "comparison.md", "LaTeX": "comparison.tex", "CSV": "comparison.csv"}


@dataclass(frozen=True)
class Shown:
    """Choices of a reader: a set of published tables, the columns of one table, a validation accuracy to reach."""

    reference: str | None = None
    columns: Sequence[str] = ()
    target: float | None = None


@dataclass(frozen=True)
class ComparisonReport:
    """Scores by method, differences to the best one, and the results behind them.

    ``tuned`` has the values that tuning chose by method, ``failed`` the federations without a result. ``references``
    are published tables for the same dataset, if they were requested.
    """

    results: Mapping[tuple[str, int], FederationSummary]
    scores: Sequence[MethodScore]
    differences: Sequence[Difference]
    tuned: Mapping[str, Mapping[str, Any]]
    failed: Sequence[Failure]
    references: Sequence[Reference] | None
    shown: Shown

    @cached_property
    def judgements(self) -> list[Judgement]:
        """Further judgements by method."""
        return judge_methods(self.results, self.shown.target)

    @cached_property
    def set_differences(self) -> dict[str, list[Difference]]:
        """Differences of methods to the best one, by evaluation set, where clients have accuracies of their own."""
        found = {name: set_accuracy(self.results, name) for name in evaluated_sets(self.results.values())}
        return {name: differences_to_best(accuracy) for name, accuracy in found.items() if accuracy}

    @cached_property
    def ranked(self) -> list[MethodFigures]:
        """Numbers of each method, the highest test accuracy first."""
        judgements = {one.method: one for one in self.judgements}
        differences = {one.method: one for one in self.differences}
        figures = {
            score.method: MethodFigures(
                score,
                judgements[score.method],
                differences.get(score.method),
                {
                    name: one
                    for name, ones in self.set_differences.items()
                    for one in ones
                    if one.method == score.method
                },
            )
            for score in self.scores
        }
        return sorted(figures.values(), key=lambda one: -one.score.test_accuracy.mean)

    @cached_property
    def tables(self) -> list[Table]:
        """Tables with their legends, see ``comparison_tables``."""
        return comparison_tables(self.ranked, self.failed, self.results, self.shown.columns)

    def to_json(self) -> str:
        plain = {
            "scores": [asdict(score) for score in self.scores],
            "judgements": [asdict(judgement) for judgement in self.judgements],
            "differences_to_best": [asdict(difference) for difference in self.differences],
            "set_differences_to_best": {
                name: [asdict(one) for one in ones] for name, ones in self.set_differences.items()
            },
            "tuned": {method: dict(values) for method, values in self.tuned.items()},
            "failed": list(map(str, self.failed)),
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

    @property
    def note(self) -> str:
        """First table in Markdown; all of them would be longer than a description in MLflow may be."""
        return f"{as_markdown(self.tables[:1])}\nAll tables: {TABLE_FILES['Markdown']}"

    def to_markdown(self) -> str:
        """Return the tables with their legends, and the published figures."""
        parts = [as_markdown(self.tables), *(f"{markdown(one.sentence)}\n" for one in self.failed)]
        for reference in self.references or ():
            if not reference.differs:
                table = Table(
                    f"{reference.name} of the paper", REFERENCE_HEADERS, reference_rows(reference, self.scores)
                )
                note = f"({reference.note})\n" if reference.note else ""
                parts += [as_markdown([table]), note]
        return "\n".join(parts)

    def files(self) -> dict[str, str]:
        """Return the text files of a comparison by name."""
        texts = (
            self.to_markdown(),
            as_latex(self.tables),
            comparison_csv(self.ranked, self.failed, self.results, self.shown.columns),
        )
        return {JSON_FILE: self.to_json(), **dict(zip(TABLE_FILES.values(), texts, strict=True))}

    def figures(self) -> "list[tuple[str, Callable[[], Figure]]]":
        """Return name and drawing function of each figure."""
        return drawings(self.results, self.ranked)

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


def make_report(
    results: Mapping[tuple[str, int], FederationSummary],
    *,
    tuned: Mapping[str, Mapping[str, Any]],
    failed: Sequence[Failure],
    shown: Shown | None = None,
) -> ComparisonReport:
    """Return the report; results by method and seed, at least one."""
    shown = Shown() if shown is None else shown
    settings = next(iter(results.values())).config
    return ComparisonReport(
        results=results,
        scores=score_methods(results),
        differences=differences_to_best(client_accuracy(results)),
        tuned=tuned,
        failed=failed,
        references=references_for(settings, shown.reference) if shown.reference else None,
        shown=shown,
    )
