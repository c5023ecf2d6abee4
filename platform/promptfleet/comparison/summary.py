"""Comparison in words and tables on a terminal: its plan, and its outcome."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from promptfleet.cluster.session import local_nodes
from promptfleet.comparison.domains import DomainTable
from promptfleet.comparison.reference import HEADERS as REFERENCE_HEADERS
from promptfleet.comparison.reference import reference_rows
from promptfleet.comparison.report import TABLE_FILES, ComparisonReport
from promptfleet.comparison.run import ComparisonOutcome, plan_comparison
from promptfleet.comparison.spec import ComparisonSpec, method_values, shared_values
from promptfleet.comparison.tables import Table as Cells
from promptfleet.config import EXECUTION_SECTIONS, flatten
from promptfleet.federation.settings import trust_option
from promptfleet.search.progress import format_params
from promptfleet.text_tables import folded, output_columns, render
from promptfleet.tracking.missing import missing_lines
from promptfleet.yaml_files import as_yaml


def describe_comparison(spec: ComparisonSpec) -> str:
    """Describe an unstarted comparison: shared values, each method's own values and tuning, and the budget."""
    shares = plan_comparison(spec, local_nodes())
    shared = _table("shared by all methods", ("key", "value"))
    for key, value in shared_values(next(spec.configs())).items():
        if key != "seed":
            shared.add_row(key, as_yaml(value))
    methods = _table("methods", ("method", "own values", "tuned over"))
    for method in spec.methods:
        space = spec.tuning[method].space if method in spec.tuning else {}
        over = "\n".join(f"{key}: {as_yaml(parameter.entry())}" for key, parameter in space.items())
        methods.add_row(method, format_params(_own_values(spec, method)) or "-", over or "-")
    left_out = [folded(f"left out: {method}: {reason}") for method, reason in spec.left_out.items()]
    tuning = sum(sweep.settings.trials for sweep in spec.tuning.values())
    return "\n".join(
        [
            render(shared),
            render(methods),
            *left_out,
            f"resources of one federation: 1 server and {shares.client_actors} client actors",
            folded(
                f"budget: {len(spec.methods)} methods x {len(spec.seeds)} seeds = "
                f"{len(spec.methods) * len(spec.seeds)} federations after {tuning} to tune them, "
                f"{spec.concurrent_trials} at a time; nothing was started"
            ),
        ]
    )


def describe_outcome(spec: ComparisonSpec, folder: Path, out: Path, outcome: ComparisonOutcome) -> str:
    """Return the table, the tuned values, published figures if requested, and where to look further."""
    storage, lines = next(spec.configs()).storage, []
    if outcome.report is not None:
        lines += report_lines(outcome.report)
        place = storage.shown(out) if out == folder else out
        lines += [f"{kind}: {place}/{name}" for kind, name in TABLE_FILES.items()] + [f"results: {place}"]
    lines.append(f"look at it: {outcome.ui_hint}")
    resume = f"python jobs/compare.py --resume {folder.name}{storage.option}{trust_option(spec.named_code())}"
    lines += missing_lines(outcome.untracked, outcome.undrawn if outcome.report is not None else 0, resume)
    if outcome.report is None:
        lines.append(f"not finished; resume with: {resume}")
    return "\n".join(lines)


def describe_domains(table: DomainTable) -> str:
    """Return the table of all left-out domains, and its legend."""
    return "\n".join(_with_legend(table.table))


def report_lines(report: ComparisonReport) -> list[str]:
    """Return the tables with their legends, the tuned values, failures, and published figures if requested."""
    lines = [line for table in report.tables for line in _with_legend(table)]
    lines += [folded(f"tuned {method}: {format_params(values)}") for method, values in report.tuned.items()]
    lines += [folded(one.sentence) for one in report.failed]
    for reference in report.references or ():
        if reference.differs:
            lines.append(f"{reference.name} of the paper is for another setting: {', '.join(reference.differs)}")
        else:
            rows = reference_rows(reference, report.scores)
            lines.append(render(_rows(f"{reference.name} of the paper, accuracy in %", REFERENCE_HEADERS, rows)))
            lines += [f"({reference.note})"] if reference.note else []
    if report.references == []:
        lines.append(f"the paper has no figures for {next(iter(report.results.values())).dataset}")
    return lines


def _with_legend(table: Cells) -> list[str]:
    return [render(_rows(table.title, table.headers, table.rows)), fill(table.legend, output_columns()), ""]


def _own_values(spec: ComparisonSpec, method: str) -> dict[str, Any]:
    """Return the values that were set for the method and are not shared by all."""
    config = spec.config(method, spec.seeds[0])
    values = flatten(method_values(method, spec.base, spec.own.get(method, {})))
    shared = {"method", *shared_values(config)}
    return {
        key: value for key, value in values.items() if key not in shared and key.split(".")[0] not in EXECUTION_SECTIONS
    }


def _rows(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = _table(title, headers)
    for row in rows:
        table.add_row(*(cell.replace("± ", "±") for cell in row))  # 120 columns are few
    return table


def _table(title: str, headers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for position, header in enumerate(headers):
        table.add_column(header, justify="right" if position and len(headers) > 3 else "left", overflow="fold")
    return table
