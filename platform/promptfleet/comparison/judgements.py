"""Further judgements of methods in a comparison, from what their federations recorded: no training is needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from promptfleet.comparison.over_seeds import OverSeeds
from promptfleet.comparison.tables import percent
from promptfleet.federation.reports import FederationSummary, RoundReport

ALONE = "coop"  # the method whose clients train alone
OF_BEST = 0.95  # of the best method's validation accuracy is the target
Results = Mapping[tuple[str, int], FederationSummary]

JUDGEMENT_HEADERS = (
    "method",
    "global",
    "others",
    "server",
    "local and global",
    "bottom decile",
    "weighted",
    "below zero-shot",
    "below CoOp",
    "ECE",
    "rounds to target",
    "KB to target",
    "s to target",
    "area",
)
JUDGEMENT_LEGEND = (
    "Accuracies in %, after the last round; docs/evaluation.md defines them. Global, others, server: on the test parts "
    "of all clients, of all others, and of all by the server's model (- if there is none); local and global: harmonic "
    "mean per client; bottom decile (of fewer than ten clients the minimum) and mean weighted by samples: on the own "
    "test parts; below zero-shot, below CoOp: share of the clients, the latter if coop is compared; ECE: of all "
    "predictions on own test parts. Target: 95 % of the best method's validation accuracy; KB: up and down, all rounds "
    "to the target; area: under the curve of the mean validation accuracy."
)


@dataclass(frozen=True)
class Target:
    """Cost until the mean validation accuracy reaches the target: rounds, bytes up and down, and seconds."""

    rounds: OverSeeds
    bytes: OverSeeds
    seconds: OverSeeds


@dataclass(frozen=True)
class Judgement:
    """Judgement of one method, over seeds.

    ``sets`` has the means of the test sets by name; ``below_zero_shot`` and ``below_coop`` are shares of the clients,
    the latter None where coop is not compared with the same seeds; ``target`` is None if a seed does not reach it.
    """

    method: str
    sets: Mapping[str, OverSeeds]
    bottom_decile: OverSeeds
    weighted_mean: OverSeeds
    below_zero_shot: OverSeeds
    below_coop: OverSeeds | None
    ece: OverSeeds | None
    target_accuracy: float
    target: Target | None
    area: OverSeeds


def judge_methods(results: Results) -> list[Judgement]:
    """Return one judgement per method, in the order of first appearance."""
    methods: dict[str, dict[int, FederationSummary]] = {}
    for (method, seed), result in results.items():
        methods.setdefault(method, {})[seed] = result
    highest = [np.mean([max(_validation(one)) for one in by_seed.values()]) for by_seed in methods.values()]
    target = OF_BEST * float(max(highest))
    return [_judge(method, by_seed, methods.get(ALONE, {}), target) for method, by_seed in methods.items()]


def judgement_rows(judgements: Sequence[Judgement], order: Sequence[str]) -> list[list[str]]:
    """Return a row of cells under ``JUDGEMENT_HEADERS`` per method, in the ``order`` of their names."""
    by_method = {one.method: one for one in judgements}
    return [_row(by_method[method]) for method in order]


def _judge(
    method: str, by_seed: Mapping[int, FederationSummary], alone: Mapping[int, FederationSummary], target: float
) -> Judgement:
    results = list(by_seed.values())

    def over_seeds(figure: Callable[[FederationSummary], float]) -> OverSeeds:
        return OverSeeds.of([figure(result) for result in results])

    names = sorted(name for name in results[0].accuracy if name.startswith("test/"))
    names = [name for name in names if all(name in result.accuracy for result in results)]
    reached = [_reached(result, target) for result in results]
    coop = [_share_below(result, alone[seed]) for seed, result in by_seed.items() if seed in alone]
    return Judgement(
        method=method,
        sets={name: over_seeds(lambda result, name=name: result.accuracy[name].mean) for name in names},
        bottom_decile=over_seeds(lambda result: result.accuracy["test/local"].bottom_decile),
        weighted_mean=over_seeds(lambda result: result.accuracy["test/local"].weighted_mean),
        below_zero_shot=over_seeds(
            lambda result: np.mean([one.test_accuracy < one.zero_shot_accuracy for one in result.seen_clients]).item()
        ),
        below_coop=OverSeeds.of(coop) if len(coop) == len(results) and method != ALONE else None,
        ece=over_seeds(lambda result: result.calibration.ece) if all(one.calibration for one in results) else None,
        target_accuracy=target,
        target=Target(*map(OverSeeds.of, zip(*reached, strict=True))) if all(reached) else None,
        area=over_seeds(_area),
    )


def _evaluated(result: FederationSummary) -> list[RoundReport]:
    return [report for report in result.rounds if report.val_accuracy is not None]


def _validation(result: FederationSummary) -> list[float]:
    return [report.val_accuracy for report in _evaluated(result)]


def _share_below(result: FederationSummary, other: FederationSummary) -> float:
    pairs = zip(result.seen_clients, other.seen_clients, strict=True)
    return float(np.mean([one.test_accuracy < alone.test_accuracy for one, alone in pairs]))


def _reached(result: FederationSummary, target: float) -> tuple[int, int, float] | None:
    """Return rounds, bytes and seconds up to the first round that reaches the target; None if none does."""
    traffic = list(accumulate(one.uploaded_bytes + one.downloaded_bytes for one in result.rounds))
    seconds = list(accumulate(one.seconds for one in result.rounds))
    for report in _evaluated(result):
        if report.val_accuracy >= target:
            return report.round, traffic[report.round - 1], seconds[report.round - 1]
    return None


def _area(result: FederationSummary) -> float:
    """Return the area under the validation curve between the first and the last evaluated round, per round."""
    rounds, values = [report.round for report in _evaluated(result)], _validation(result)
    return float(np.trapezoid(values, rounds) / (rounds[-1] - rounds[0])) if len(rounds) > 1 else values[0]


def _row(one: Judgement) -> list[str]:
    def cell(figure: OverSeeds | None) -> str:
        return "-" if figure is None else percent(figure)

    sets = [one.sets.get(f"test/{name}") for name in ("global", "others", "server", "harmonic_local_global")]
    target = one.target
    return [
        one.method,
        *map(cell, sets),
        *map(cell, (one.bottom_decile, one.weighted_mean, one.below_zero_shot, one.below_coop, one.ece)),
        "not reached" if target is None else f"{target.rounds.mean:.1f}",
        "-" if target is None else f"{target.bytes.mean / 1024:.0f}",
        "-" if target is None else f"{target.seconds.mean:.1f}",
        cell(one.area),
    ]
