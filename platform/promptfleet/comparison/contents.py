"""Contents of a comparison's tables and of its CSV file: a row per method, the highest test accuracy first."""

from collections.abc import Sequence
from typing import Any

from promptfleet.comparison.columns import (
    MAIN,
    Column,
    MethodFigures,
    columns_of,
    further_columns,
    percent,
    set_columns,
)
from promptfleet.comparison.failures import Failure
from promptfleet.comparison.judgements import Results, evaluated_sets
from promptfleet.comparison.over_seeds import OverSeeds
from promptfleet.comparison.tables import Table, as_csv
from promptfleet.federation.evaluation.scores import TEST, set_name

UNTRAINED, UNTRAINED_ROW = "zero_shot", "(zero-shot CLIP)"  # a method, and its row where it is not compared
_OVER_SEEDS = "mean ± sample standard deviation over seeds"
_SETS = (
    "Evaluation sets: accuracy in % after the last round, mean over clients; docs/evaluation.md defines each. ≈: the "
    "difference to the best of the set may be noise: p of 0.05 or more in Wilcoxon's test, paired over seeds "
    "and clients, after Holm's correction."
)


def comparison_tables(
    ranked: Sequence[MethodFigures], failed: Sequence[Failure], results: Results, chosen: Sequence[str]
) -> list[Table]:
    """Return the table of the ``chosen`` columns; by default the main one, that of all sets, and a further one.

    Methods without a result are rows of dashes at the end.
    """
    if chosen:
        groups = {"comparison": columns_of(chosen)}
    else:
        sets = set_columns(evaluated_sets(results.values()))
        groups = {"comparison": MAIN, "evaluation sets": sets, "clients, calibration and cost": further_columns(ranked)}
    missing = without_result(ranked, failed)
    return [_table(title, columns, ranked, missing, results) for title, columns in groups.items()]


def comparison_csv(
    ranked: Sequence[MethodFigures], failed: Sequence[Failure], results: Results, chosen: Sequence[str]
) -> str:
    """Return numbers of the same columns in fractions and KB, their deviations over seeds, and why a method failed."""
    columns = columns_of(chosen) or [*MAIN, *set_columns(evaluated_sets(results.values())), *further_columns(ranked)]
    rows: dict[str, dict[str, Any]] = {}
    for one in ranked:
        row = rows[one.score.method] = {}
        for column in columns:
            number = column.number(one)
            row[column.name] = number.mean if isinstance(number, OverSeeds) else number
            if isinstance(number, OverSeeds):
                row[f"{column.name}_std"] = number.std
    rows |= {method: {} for method in without_result(ranked, failed)}
    known = {key for row in rows.values() for key in row}
    keys = [key for column in columns for key in (column.name, f"{column.name}_std")]
    keys = [key for key in keys if key in known or not key.endswith("_std")]
    reasons = {method: "; ".join(str(one) for one in failed if one.method == method) for method in rows}
    cells = [[method, *(row.get(key) for key in keys), reasons[method]] for method, row in rows.items()]
    return as_csv(["method", *keys, "failed"], cells)


def without_result(ranked: Sequence[MethodFigures], failed: Sequence[Failure]) -> list[str]:
    """Return the methods of which no federation has a result."""
    with_result = {one.score.method for one in ranked}
    return list(dict.fromkeys(one.method for one in failed if one.method not in with_result))


def _table(
    title: str, columns: Sequence[Column], ranked: Sequence[MethodFigures], missing: Sequence[str], results: Results
) -> Table:
    rows = [[one.score.method, *(column.cell(one) for column in columns)] for one in ranked]
    if any(column.is_set for column in columns) and UNTRAINED not in [one.score.method for one in ranked]:
        rows.append([UNTRAINED_ROW, *(_untrained(column, results) for column in columns)])
    rows += [[method, *("-" for _ in columns)] for method in missing]
    bold = {(0, 0)}
    for index, column in enumerate(columns, start=1):
        bold |= {(row, index) for row in _best(column, ranked)}
    headers = ["method", *(column.header for column in columns)]
    return Table(title, headers, rows, frozenset(bold), _legend(columns, ranked[0].judgement.target_accuracy))


def _best(column: Column, ranked: Sequence[MethodFigures]) -> list[int]:
    """Return the rows of the highest mean in a column of accuracies that methods are compared by."""
    if not column.is_compared:
        return []
    means = [-1.0 if (number := column.number(one)) is None else number.mean for one in ranked]
    return [row for row, mean in enumerate(means) if mean == max(means) >= 0]


def _untrained(column: Column, results: Results) -> str:
    """Return untrained CLIP's accuracy on the set of a column."""
    by_seed = {seed: result.zero_shot for (_, seed), result in results.items()}
    name = set_name(TEST, column.name)
    found = [sets[name].mean for sets in by_seed.values() if name in sets]
    return percent(OverSeeds.of(found)) if column.is_set and found else "-"


def _legend(columns: Sequence[Column], target: float) -> str:
    defined = [f"{column.header}: {column.legend}" for column in columns if column.legend]
    parts = [f"Accuracies in %, {_OVER_SEEDS}."]
    parts += [f"{'; '.join(defined)}."] if defined else []
    parts += [_SETS] if any(column.is_set for column in columns) else []
    parts += [f"Target: {100 * target:.1f} %."] if any("to_target" in column.name for column in columns) else []
    return " ".join(parts)
