"""Comparisons that leave out one domain each, one after the other on one Ray; those that were begun are resumed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from promptfleet.cluster.nodes import Node
from promptfleet.cluster.session import local_nodes, ray_with
from promptfleet.comparison.domains import DomainTable
from promptfleet.comparison.files import check_out, kept_in, write_files
from promptfleet.comparison.reading import load_comparison
from promptfleet.comparison.run import ComparisonOutcome, plan_comparison
from promptfleet.comparison.spec import ComparisonSpec
from promptfleet.comparison.studies import check_studies
from promptfleet.config import FederationConfig
from promptfleet.errors import ConfigError
from promptfleet.federation.prepare import Prepared, prepare
from promptfleet.search.folders import COMPARISONS, as_name

Compare = Callable[[ComparisonSpec, Path, Prepared, Sequence[Node], Path | None], ComparisonOutcome]
Finish = Callable[[ComparisonSpec, Path, Path | None, ComparisonOutcome], None]


@dataclass(frozen=True)
class EachDomain:
    """Comparisons by the domain that they leave out, called ``name`` and the domain; ``out`` is for a copy of all."""

    specs: Mapping[str, ComparisonSpec]
    name: str
    out: Path | None

    def configs(self) -> Iterator[FederationConfig]:
        """Yield every federation of all comparisons, those of the tuning too."""
        for spec in self.specs.values():
            yield from spec.all_configs()

    def check(self, *, overwrite: bool, trust_code: bool) -> None:
        """Raise ConfigError if a comparison cannot have its name, or its folder in ``out``."""
        storage = self._first.storage
        for domain, spec in self.specs.items():
            name, folder = self._name(domain), None
            if COMPARISONS.has(storage, name):
                folder = COMPARISONS.find(storage, name)
                self._check_same(spec, folder, trust_code=trust_code)
            else:
                COMPARISONS.check_name(storage, name)
            if self.out:
                check_out(self.out / as_name(domain), folder, overwrite=overwrite)

    def run(self, address: str | None, compare: Compare, finish: Finish) -> DomainTable | None:
        """Run each comparison, or the rest of it, and write the table of all domains; None if it was interrupted.

        ``compare`` runs one in its folder, and ``finish`` reports its outcome; both also write to a folder of ``out``.
        """
        first, specs = self._first, self.specs
        if address is None:
            plan_comparison(next(iter(specs.values())), local_nodes())
        where = {"fork_server": first.runtime.fork_server, "storage": first.storage}
        results, folders = {}, []
        with ray_with(lambda: prepare(*self.configs()), address, **where) as (prepared, nodes):
            for domain, spec in specs.items():
                name, out = self._name(domain), self.out and self.out / as_name(domain)
                begun = COMPARISONS.has(first.storage, name)
                with (
                    COMPARISONS.resume(first.storage, name) if begun else nullcontext() as folder,
                    kept_in(folder, spec, name, is_grown=False) as folder,
                ):
                    if begun:
                        check_studies(spec, folder)
                    outcome = compare(spec, folder, prepared, nodes, out)
                finish(spec, folder, out, outcome)
                if outcome.interrupted:
                    return None
                results[domain] = outcome.report.results
                folders.append(folder)
        table = DomainTable.of(results)
        write_files(table.files(), *folders, *filter(None, [self.out]))
        return table

    @property
    def _first(self) -> FederationConfig:
        return next(next(iter(self.specs.values())).configs())

    def _name(self, domain: str) -> str:
        return f"{self.name}-{as_name(domain)}"

    def _check_same(self, spec: ComparisonSpec, folder: Path, *, trust_code: bool) -> None:
        """Raise ConfigError if the comparison in ``folder`` is another one."""
        begun = load_comparison(folder / COMPARISONS.file, self._first.storage, trust_code=trust_code)
        if [one.fingerprint() for one in begun.all_configs()] != [one.fingerprint() for one in spec.all_configs()]:
            raise ConfigError(
                f"--name {self.name}: {folder.name} is a comparison of other federations; choose another name"
            )
