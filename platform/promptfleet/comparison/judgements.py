"""Further judgements of methods in a comparison, from what their federations recorded: no training is needed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from promptfleet.comparison.over_seeds import OverSeeds
from promptfleet.federation.evaluation.scores import TEST, error_name, names_of_sets, set_name
from promptfleet.federation.reports import FederationSummary, RoundReport

ALONE = "coop"  # the method whose clients train alone
OF_BEST = 0.95  # of the best method's validation accuracy is the target
ERRORS = ("ece", "mce", "ace")  # of calibration
Results = Mapping[tuple[str, int], FederationSummary]


@dataclass(frozen=True)
class Target:
    """Cost until the mean validation accuracy reaches the target: rounds, KB up and down, and seconds."""

    rounds: OverSeeds
    kilobytes: OverSeeds
    seconds: OverSeeds


@dataclass(frozen=True)
class Judgement:
    """Judgement of one method, over seeds.

    ``sets`` has the means of the test sets by name; ``below_zero_shot`` and ``below_coop`` are shares of the clients,
    the latter None where coop is not compared with the same seeds; ``calibration`` has the errors of all predictions by
    name, such as ``ece`` on own test parts and ``ece_base`` on ``base``; ``target`` is None if a seed misses it.
    """

    method: str
    sets: Mapping[str, OverSeeds]
    bottom_decile: OverSeeds
    weighted_mean: OverSeeds
    below_zero_shot: OverSeeds
    below_coop: OverSeeds | None
    calibration: Mapping[str, OverSeeds]
    target_accuracy: float
    target: Target | None
    area: OverSeeds


def judge_methods(results: Results, target: float | None = None) -> list[Judgement]:
    """Return one judgement per method, in the order of first appearance.

    target: the mean validation accuracy to reach, 0..1; by default 95 % of the best method's highest.
    """
    methods: dict[str, dict[int, FederationSummary]] = {}
    for (method, seed), result in results.items():
        methods.setdefault(method, {})[seed] = result
    if target is None:
        highest = [np.mean([max(_validation(one)) for one in by_seed.values()]) for by_seed in methods.values()]
        target = OF_BEST * float(max(highest))
    return [_judge(method, by_seed, methods.get(ALONE, {}), target) for method, by_seed in methods.items()]


def evaluated_sets(results: Iterable[FederationSummary]) -> list[str]:
    """Return the names of all test sets in the results, in the order of ``names_of_sets``, unknown ones last."""
    names = {name for result in results for name in result.accuracy if name.startswith(set_name(TEST, ""))}
    known = [set_name(TEST, name) for name in names_of_sets()]
    return [*(name for name in known if name in names), *sorted(names.difference(known))]


def _judge(
    method: str, by_seed: Mapping[int, FederationSummary], alone: Mapping[int, FederationSummary], target: float
) -> Judgement:
    results = list(by_seed.values())

    def over_seeds(figure: Callable[[FederationSummary], float]) -> OverSeeds:
        return OverSeeds.of([figure(result) for result in results])

    names = [name for name in evaluated_sets(results) if all(name in result.accuracy for result in results)]
    errors = [_calibration_errors(result) for result in results]
    in_all = [name for name in errors[0] if all(name in one for one in errors)]
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
        calibration={name: OverSeeds.of([one[name] for one in errors]) for name in in_all},
        target_accuracy=target,
        target=Target(*map(OverSeeds.of, zip(*reached, strict=True))) if all(reached) else None,
        area=over_seeds(_area),
    )


def _calibration_errors(result: FederationSummary) -> dict[str, float]:
    """Return the pooled calibration errors by name, those of evaluation sets among them."""
    found = {name: getattr(result.calibration, name) for name in ERRORS} if result.calibration else {}
    for name, one in result.set_calibration.items():
        found |= {error_name("ece", name): one.ece, error_name("mce", name): one.mce}
    return found


def _evaluated(result: FederationSummary) -> list[RoundReport]:
    return [report for report in result.rounds if report.val_accuracy is not None]


def _validation(result: FederationSummary) -> list[float]:
    return [report.val_accuracy for report in _evaluated(result)]


def _share_below(result: FederationSummary, other: FederationSummary) -> float:
    pairs = zip(result.seen_clients, other.seen_clients, strict=True)
    return float(np.mean([one.test_accuracy < alone.test_accuracy for one, alone in pairs]))


def _reached(result: FederationSummary, target: float) -> tuple[int, float, float] | None:
    """Return rounds, KB and seconds up to the first round that reaches the target; None if none does."""
    traffic = list(accumulate(one.uploaded_bytes + one.downloaded_bytes for one in result.rounds))
    seconds = list(accumulate(one.seconds for one in result.rounds))
    for report in _evaluated(result):
        if report.val_accuracy >= target:
            return report.round, traffic[report.round - 1] / 1024, seconds[report.round - 1]
    return None


def _area(result: FederationSummary) -> float:
    """Return the area under the validation curve between the first and the last evaluated round, per round."""
    rounds, values = [report.round for report in _evaluated(result)], _validation(result)
    return float(np.trapezoid(values, rounds) / (rounds[-1] - rounds[0])) if len(rounds) > 1 else values[0]
