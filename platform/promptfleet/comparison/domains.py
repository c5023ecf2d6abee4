"""One comparison per left-out domain, and the table of all of them: each domain is a column."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from promptfleet.comparison.columns import percent
from promptfleet.comparison.over_seeds import OverSeeds
from promptfleet.comparison.tables import Table, as_latex, as_markdown
from promptfleet.config import FederationConfig
from promptfleet.data.datasets import load_dataset
from promptfleet.errors import ConfigError
from promptfleet.federation.reports import FederationSummary
from promptfleet.strict_json import to_json

UNSEEN = "test/unseen_domain"
AVERAGE = "average"
LEGEND = (
    "Accuracies in %, mean ± sample standard deviation over seeds: of the clients' models on all samples of a domain "
    "that no client has, mean over clients, after the last round. Average: over the domains, of each seed."
)
Results = Mapping[tuple[str, int], FederationSummary]


def domains_to_leave_out(config: FederationConfig) -> tuple[str, ...]:
    """Return the domains of the federation's dataset, of which each is left out once.

    Raises:
        ConfigError: there are fewer than two, or the configuration leaves one out already, or tests on none.
        DataError: the dataset is missing or damaged.
    """
    if (given := config.partition.held_out_domain) is not None:
        raise ConfigError(f"--leave-one-domain-out: leaves out each domain; remove partition.held_out_domain={given}")
    if config.evaluation.sets.unseen_domain == "never":
        raise ConfigError("--leave-one-domain-out: remove evaluation.sets.unseen_domain=never")
    names = load_dataset(config.dataset, config.data.root, config.data.folder).domain_names
    if len(names) < 2:
        raise ConfigError(
            f"--leave-one-domain-out: dataset={config.dataset} should have two domains or more, it has {len(names)}"
        )
    return names


@dataclass(frozen=True)
class DomainTable:
    """Accuracy on left-out domains by method and domain, the highest average first.

    A method without a result for a domain with some seed has None there, and no average.
    """

    domains: Sequence[str]
    accuracy: Mapping[str, Mapping[str, OverSeeds | None]]

    @classmethod
    def of(cls, results: Mapping[str, Results]) -> "DomainTable":
        """Summarize the results of each domain's comparison, by method and seed."""
        pairs = dict.fromkeys(pair for of_domain in results.values() for pair in of_domain)
        seeds = {method: [seed for name, seed in pairs if name == method] for method, _ in pairs}
        accuracy = {method: _accuracies(results, method, seeds[method]) for method in seeds}

        def average(method: str) -> float:
            found = accuracy[method][AVERAGE]
            return found.mean if found else -1.0

        return cls(list(results), {method: accuracy[method] for method in sorted(accuracy, key=average, reverse=True)})

    @property
    def table(self) -> Table:
        """Table with one row per method, the best one in bold."""
        rows = [
            [method, *("-" if one is None else percent(one) for one in accuracy.values())]
            for method, accuracy in self.accuracy.items()
        ]
        return Table("left-out domains", ["method", *self.domains, AVERAGE], rows, frozenset({(0, 0), (0, 1)}), LEGEND)

    def files(self) -> dict[str, str]:
        """Return the table by file name: for reading, for papers and for programs."""
        plain = {
            method: {name: one and asdict(one) for name, one in accuracy.items()}
            for method, accuracy in self.accuracy.items()
        }
        return {
            "domains.md": as_markdown([self.table]),
            "domains.tex": as_latex([self.table]),
            "domains.json": to_json({"domains": list(self.domains), "accuracy": plain}),
        }


def _accuracies(results: Mapping[str, Results], method: str, seeds: Sequence[int]) -> dict[str, OverSeeds | None]:
    """Return a method's accuracy on each domain, and at last the average over domains."""
    by_domain = {}
    for domain, of_domain in results.items():
        values = [of_domain[method, seed].accuracy[UNSEEN].mean for seed in seeds if (method, seed) in of_domain]
        by_domain[domain] = values if len(values) == len(seeds) else None
    found = {domain: values and OverSeeds.of(values) for domain, values in by_domain.items()}
    complete = None not in by_domain.values()
    means = [fmean(of_seed) for of_seed in zip(*by_domain.values(), strict=True)] if complete else None
    return {**found, AVERAGE: means and OverSeeds.of(means)}
