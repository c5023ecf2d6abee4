"""Views of MLflow's page of runs: a sorted table of the main columns, and charts of them.

MLflow keeps a shared view as JSON in a tag of the experiment, and a link names it. The keys are those of the front end
of MLflow 3.17, which skips keys it does not know.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

VIEW_TAG = "mlflow.sharedViewState."
FEDERATIONS, ALL_RUNS = "federations", "runs"  # names of views
KEYS, PARENT, SAVED = (
    "promptfleet.keys",
    "promptfleet.parent",
    "promptfleet.saved",
)  # in a view's state, for this program alone
TEST, VAL, ZERO_SHOT = "final/test_accuracy", "final/val_accuracy", "zero_shot/test_accuracy"
OBJECTIVE = "final/objective"  # of a sweep's trial
VAL_BY_ROUND, TEST_BY_ROUND = "val/accuracy_mean", "test/accuracy_mean"
_LONGEST = 20_000  # characters of an experiment's tag
_MAIN = "accuracy"
_FOLDED = ("peak_round", "privacy", "round", "seconds", "storage", "test", "traffic", "train", "val", "zero_shot")
_RUNS = 20  # in a chart
_FIRST = {"attributes.`Run Name`": 280, "runDateAndNestInfo": 130}  # columns of each table, width in pixels


@dataclass(frozen=True)
class View:
    """Table of runs. ``name`` is its name in the link.

    order_by and columns are ``metric("...")``, ``param("...")`` or ``tag("...")``; search is in MLflow's filter
    language, and parent the id of the run whose children are shown. keys are the parameters by which the runs differ,
    for a chart of parallel coordinates of the metric judged_by; bars are metrics with a chart of bars each.
    """

    name: str
    order_by: str
    columns: Sequence[str]
    parent: str | None = None
    search: str = ""
    bars: Sequence[str] = ()
    keys: Sequence[str] = ()
    judged_by: str = VAL

    def to_json(self, *, saved: float | None = None) -> str:
        """Return the state in the form of MLflow's front end; columns that are too many for it are left out.

        saved: when it is, in seconds since 1970.
        """
        columns = list(self.columns)
        stamp = {} if saved is None else {SAVED: saved}
        while len(text := json.dumps(self._state(columns) | stamp)) > _LONGEST and columns:
            columns.pop()
        return text

    def _state(self, columns: Sequence[str]) -> dict[str, Any]:
        return {
            "searchFilter": nested_in(self.parent) if self.parent else self.search,
            "orderByKey": self.order_by,
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": columns,
            "columnOrder": [*_FIRST, *columns],
            "columnWidths": _FIRST | {column: _width(column) for column in columns},
            "runsHiddenMode": "FIRST_20_RUNS",
            "compareRunCharts": list(self._charts()),
            "compareRunSections": [_section(_MAIN, shown=True), *(_section(name, shown=False) for name in _FOLDED)],
            "isAccordionReordered": True,
            KEYS: list(self.keys),
            PARENT: self.parent,
        }

    def _charts(self) -> Sequence[dict[str, Any]]:
        charts = [
            _line(VAL_BY_ROUND, "validation accuracy by round"),
            _line(TEST_BY_ROUND, "test accuracy by round"),
            *(_chart("BAR", name, metricKey=name, displayName=name) for name in self.bars),
        ]
        if len(self.keys) > 1:
            charts.append(
                _chart(
                    "PARALLEL",
                    "parallel",
                    selectedParams=list(self.keys),
                    selectedMetrics=[self.judged_by],
                    showAllRuns=True,
                )
            )
        return charts


def view_name(key: str) -> str:
    """Return the name of the view of the run with this key, such as ``sweep-gating``."""
    return key.replace("/", "-")


def metric(name: str) -> str:
    """Return the name of a metric's column on MLflow's page."""
    return f"metrics.`{name}`"


def param(name: str) -> str:
    """Return the name of a parameter's column on MLflow's page."""
    return f"params.`{name}`"


def tag(name: str) -> str:
    """Return the name of a tag's column on MLflow's page."""
    return f"tags.`{name}`"


def trials_view(name: str, parent: str, keys: Sequence[str]) -> View:
    """Return the view of a sweep's trials, the highest objective first; keys are those searched."""
    return View(
        name,
        order_by=metric(OBJECTIVE),
        columns=[metric(OBJECTIVE), metric(VAL), metric(TEST), *map(param, keys), tag("promptfleet.state")],
        parent=parent,
        bars=(OBJECTIVE, TEST),
        judged_by=OBJECTIVE,
        keys=keys,
    )


def comparison_view(name: str, parent: str) -> View:
    """Return the view of a comparison's federations, the highest test accuracy first."""
    columns = [metric(TEST), metric(VAL), param("method"), param("seed"), tag("promptfleet.state")]
    return View(name, order_by=metric(TEST), columns=columns, parent=parent, bars=(TEST, VAL))


def federations_view(keys: Sequence[str]) -> View:
    """Return the view of single federations, the highest test accuracy first; keys are those that differ."""
    first = ("method", "dataset", "seed")
    columns = [metric(TEST), metric(VAL), metric(ZERO_SHOT), *map(param, first), *map(param, keys)]
    return View(
        FEDERATIONS,
        order_by=metric(TEST),
        columns=[*columns, tag("promptfleet.state")],
        search=f"{tag('promptfleet.kind')} = 'federation'",
        bars=(TEST, VAL),
        keys=keys,
    )


def all_runs_view() -> View:
    """Return the view of everything, the newest first, trials folded into their sweeps."""
    accuracies = [metric(name) for name in ("best/test_accuracy", "best/val_accuracy", TEST, VAL, ZERO_SHOT)]
    tags = [tag(name) for name in ("method", "dataset", "promptfleet.state")]
    return View(ALL_RUNS, order_by="attributes.start_time", columns=[*accuracies, *tags])


def nested_in(parent: str) -> str:
    """Return the filter for the runs nested in one, given by its id."""
    return f"{tag('mlflow.parentRunId')} = '{parent}'"


def _width(column: str) -> int:
    """Return the pixels that the column's title takes."""
    return min(200, 40 + 7 * len(column.split("`")[1]))


def _section(name: str, *, shown: bool) -> dict[str, Any]:
    return {"uuid": name, "name": name, "display": shown, "isReordered": True, "deleted": False, "isGenerated": False}


def _line(name: str, title: str) -> dict[str, Any]:
    return _chart(
        "LINE",
        name,
        metricKey=name,
        displayName=title,
        lineSmoothness=0,
        scaleType="linear",
        xAxisKey="step",
        xAxisScaleType="linear",
        selectedXAxisMetricKey="",
        yAxisKey="metric",
        yAxisExpressions=[],
        range={},
        ignoreOutliers=False,
        useGlobalXaxisKey=True,
        useGlobalLineSmoothing=True,
    )


def _chart(kind: str, uuid: str, **values: Any) -> dict[str, Any]:
    always = {"metricSectionId": _MAIN, "deleted": False, "isGenerated": False, "runsCountToCompare": _RUNS}
    return {"type": kind, "uuid": uuid, **always, **values}
