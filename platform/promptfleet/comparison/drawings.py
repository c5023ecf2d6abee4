"""Figures of a comparison, from the results of its federations."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from promptfleet.comparison.columns import MethodFigures
from promptfleet.comparison.judgements import Results, evaluated_sets
from promptfleet.comparison.scores import client_accuracy
from promptfleet.federation.evaluation.scores import BASE, GLOBAL, LOCAL, NEW, TEST, set_name
from promptfleet.federation.reports import FederationSummary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawing = tuple[str, "Callable[[], Figure]"]


def drawings(results: Results, ranked: Sequence[MethodFigures]) -> list[Drawing]:
    """Return name and drawing function of each figure that the results have data for; the best method comes first."""
    order = [one.score.method for one in ranked]
    return [
        *_of_rounds(results, ranked),
        *_of_sets(results, ranked),
        *_of_pairs(results, order),
        *_of_calibration(results, order),
    ]


def _of_rounds(results: Results, ranked: Sequence[MethodFigures]) -> list[Drawing]:
    from promptfleet.figures.comparison import client_boxes_figure, method_lines_figure

    scores = [one.score for one in ranked]
    mean = {score.method: [one.mean for one in score.accuracy_by_round] for score in scores}
    spread = {score.method: [one.std for one in score.accuracy_by_round] for score in scores}
    rounds = scores[0].evaluated_rounds
    seeds = max(len(score.seeds) for score in scores)
    accuracy = client_accuracy(results)
    clients = {
        score.method: [value for clients in accuracy[score.method].values() for value in clients] for score in scores
    }
    return [
        ("methods", lambda: method_lines_figure(mean, spread, rounds, seeds=seeds)),
        ("clients", lambda: client_boxes_figure(clients, seeds=seeds)),
    ]


def _of_sets(results: Results, ranked: Sequence[MethodFigures]) -> list[Drawing]:
    from promptfleet.figures.evaluation import sets_figure

    names = {name: name.removeprefix(set_name(TEST, "")) for name in evaluated_sets(results.values())}
    sets = {
        one.score.method: {
            shown: one.judgement.sets[name].mean for name, shown in names.items() if name in one.judgement.sets
        }
        for one in ranked
    }
    return [("sets", lambda: sets_figure(sets, list(names.values())))]


def _of_pairs(results: Results, order: Sequence[str]) -> list[Drawing]:
    """Return a figure of each pair of sets that clients have, with a dot per client and method."""
    from promptfleet.figures.pairs import base_new_figure, local_global_figure

    pairs = (("local_global", (LOCAL, GLOBAL), local_global_figure), ("base_new", (BASE, NEW), base_new_figure))
    found: list[Drawing] = []
    for name, pair, draw in pairs:
        dots = {method: _pairs_of_clients(results, method, pair) for method in order}
        dots = {method: values for method, values in dots.items() if values[0]}
        if dots:
            found.append((name, lambda draw=draw, dots=dots: draw(dots)))
    return found


def _pairs_of_clients(results: Results, method: str, pair: Sequence[str]) -> tuple[list[float], list[float]]:
    """Return each client's accuracy on two sets, over all seeds."""
    first, second = (set_name(TEST, name) for name in pair)
    clients = [client.accuracy for result in _of_method(results, method) for client in result.clients]
    clients = [one for one in clients if first in one and second in one]
    return [one[first] for one in clients], [one[second] for one in clients]


def _of_calibration(results: Results, order: Sequence[str]) -> list[Drawing]:
    from promptfleet.figures.evaluation import reliability_figure

    found = {method: next(iter(_of_method(results, method))).calibration for method in order}
    bins = {
        method: [(one.count, one.confidence, one.accuracy) for one in calibration.bins]
        for method, calibration in found.items()
        if calibration is not None
    }
    ece = {method: calibration.ece for method, calibration in found.items() if calibration is not None}
    return [("reliability", lambda: reliability_figure(bins, ece))] if bins else []


def _of_method(results: Results, method: str) -> list[FederationSummary]:
    return [result for (name, _), result in results.items() if name == method]
