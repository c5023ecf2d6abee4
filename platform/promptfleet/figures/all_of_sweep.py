"""All figures of a sweep by name."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from matplotlib.figure import Figure

from promptfleet.figures.contour import contour_figure
from promptfleet.figures.grid import grid_figure
from promptfleet.figures.parallel import parallel_figure
from promptfleet.figures.pareto import pareto_figure
from promptfleet.figures.sweep import VALUE, history_figure, importances_figure, slices_figure
from promptfleet.figures.timeline import timeline_figure
from promptfleet.trial_records import Importances, TrialRecord

_LOCAL = "val/local"  # the objective that the labels call validation accuracy


def sweep_figures(
    trials: Sequence[TrialRecord],
    importances: Callable[[], Importances | None],
    *,
    space: Mapping[str, Mapping[str, Any]],
    objectives: Mapping[str, str] | None = None,
    front: Collection[int] = (),
    log_scale: Collection[str] = (),
    zero_shot: float | None = None,
    is_grid: bool = False,
) -> Iterator[tuple[str, Callable[[], Figure | None]]]:
    """Yield name and drawing function of each figure; a function gives None where there is nothing to show.

    space has the entries of the search file; objectives are directions by name, the first one the main one; front are
    the numbers of the trials on the Pareto front; log_scale names keys with a logarithmic axis; zero_shot is untrained
    CLIP's mean test accuracy.
    """
    main = next(iter(objectives or {_LOCAL: "maximize"}))
    label = VALUE if main == _LOCAL else main
    found = cache(importances)

    def shares() -> Mapping[str, float]:
        return found().shares if found() else {}

    look = {"log_scale": log_scale}
    yield "history", lambda: history_figure(trials, zero_shot=zero_shot, label=label)
    yield "importances", lambda: importances_figure(found())
    yield "grid", lambda: grid_figure(trials, space) if is_grid else None
    yield "slices", lambda: slices_figure(trials, space=space, importances=shares(), label=label, **look)
    name = label.removesuffix(" (fraction correct)")
    yield "parallel", lambda: parallel_figure(trials, space, objective=name, importances=shares(), **look)
    yield "contour", lambda: contour_figure(trials, space, shares(), objective=name, **look)
    yield "pareto", lambda: pareto_figure(trials, objectives or {}, front)
    yield "timeline", lambda: timeline_figure(trials)
