"""Scores of a method in a comparison: means over clients, then mean and deviation over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from promptfleet.comparison.over_seeds import OverSeeds
from promptfleet.federation.reports import FederationSummary, RoundReport


@dataclass(frozen=True)
class MethodScore:
    """Scores of one method. Accuracies are fractions of the clients' own test parts, after the last round unless said.

    ``worst_client`` and ``client_std`` are the lowest client's accuracy and the standard deviation over clients;
    bytes are those of a round, all its clients together, as in ``RoundReport``; ``trained_parameters`` are those of one
    client; ``seconds`` of one federation. ``accuracy_by_round`` has an entry for each of ``evaluated_rounds``.
    """

    method: str
    seeds: Sequence[int]
    test_accuracy: OverSeeds
    best_round_test_accuracy: OverSeeds
    val_accuracy: OverSeeds
    zero_shot_accuracy: OverSeeds
    worst_client: OverSeeds
    client_std: OverSeeds
    uploaded_bytes: float
    downloaded_bytes: float
    trained_parameters: int
    seconds: OverSeeds
    evaluated_rounds: Sequence[int]
    accuracy_by_round: Sequence[OverSeeds]


def score_methods(results: Mapping[tuple[str, int], FederationSummary]) -> list[MethodScore]:
    """Return one score per method, in the order of first appearance. results by method and seed."""
    methods: dict[str, dict[int, FederationSummary]] = {}
    for (method, seed), result in results.items():
        methods.setdefault(method, {})[seed] = result
    return [_score(method, by_seed) for method, by_seed in methods.items()]


def client_accuracy(
    results: Mapping[tuple[str, int], FederationSummary],
) -> dict[str, dict[int, list[float]]]:
    """Return each client's test accuracy after the last round, by method and seed."""
    accuracy: dict[str, dict[int, list[float]]] = {}
    for (method, seed), result in results.items():
        accuracy.setdefault(method, {})[seed] = [client.test_accuracy for client in result.seen_clients]
    return accuracy


def set_accuracy(results: Mapping[tuple[str, int], FederationSummary], name: str) -> dict[str, dict[int, list[float]]]:
    """Return accuracies of clients on an evaluation set, by method and seed, where clients have their own.

    The clients of a seed are those that have one with each of the methods that have any.
    """
    found = {
        key: {client.id: client.accuracy[name] for client in result.clients if name in client.accuracy}
        for key, result in results.items()
    }
    found = {key: by_client for key, by_client in found.items() if by_client}
    accuracy: dict[str, dict[int, list[float]]] = {}
    for (method, seed), by_client in found.items():
        others = [clients.keys() for (_, other), clients in found.items() if other == seed]
        shared = sorted(by_client.keys() & set.intersection(*map(set, others)))
        accuracy.setdefault(method, {})[seed] = [by_client[client] for client in shared]
    return accuracy


def _score(method: str, by_seed: Mapping[int, FederationSummary]) -> MethodScore:
    results = list(by_seed.values())

    def over_seeds(figure: Callable[[FederationSummary], float]) -> OverSeeds:
        return OverSeeds.of([figure(result) for result in results])

    return MethodScore(
        method=method,
        seeds=list(by_seed),
        test_accuracy=over_seeds(lambda result: result.test_accuracy),
        best_round_test_accuracy=over_seeds(lambda result: result.best_round_test_accuracy),
        val_accuracy=over_seeds(lambda result: result.val_accuracy),
        zero_shot_accuracy=over_seeds(lambda result: result.zero_shot_accuracy),
        worst_client=over_seeds(lambda result: min(client.test_accuracy for client in result.seen_clients)),
        client_std=over_seeds(lambda result: pstdev(client.test_accuracy for client in result.seen_clients)),
        uploaded_bytes=_per_round(results, lambda report: report.uploaded_bytes),
        downloaded_bytes=_per_round(results, lambda report: report.downloaded_bytes),
        trained_parameters=results[0].trained_parameters,
        seconds=over_seeds(lambda result: result.seconds),
        evaluated_rounds=[report.round for report in _evaluated(results[0])],
        accuracy_by_round=[
            OverSeeds.of([report.test_accuracy for report in reports])
            for reports in zip(*(_evaluated(result) for result in results), strict=True)
        ],
    )


def _evaluated(result: FederationSummary) -> list[RoundReport]:
    return [report for report in result.rounds if report.accuracy]


def _per_round(results: Sequence[FederationSummary], size: Callable[[RoundReport], int]) -> float:
    return fmean(size(report) for result in results for report in result.rounds)
