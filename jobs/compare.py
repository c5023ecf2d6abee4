"""Compare methods on the same clients: python jobs/compare.py --methods pfedmoap,promptfl,coop --seeds 0,1,2"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from promptfleet.cluster.nodes import Node
from promptfleet.cluster.session import local_nodes, ray_with
from promptfleet.cluster.watch import leaving_when_ray_is_gone
from promptfleet.command_line import INTERRUPTED, ArgumentParser, path_argument, run
from promptfleet.comparison.columns import parse_columns
from promptfleet.comparison.domains import domains_to_leave_out
from promptfleet.comparison.each_domain import EachDomain
from promptfleet.comparison.files import check_out, kept_in, write_figures
from promptfleet.comparison.growth import grown
from promptfleet.comparison.impossible import prepare_possible
from promptfleet.comparison.reading import ALL, load_comparison, parse_methods, parse_seeds, read_comparison
from promptfleet.comparison.reference import REFERENCES
from promptfleet.comparison.report import Shown
from promptfleet.comparison.run import ComparisonOutcome, plan_comparison, run_comparison
from promptfleet.comparison.spec import ComparisonSpec
from promptfleet.comparison.studies import check_studies, rebuild_studies
from promptfleet.comparison.summary import describe_comparison, describe_domains, describe_outcome
from promptfleet.config import FederationConfig
from promptfleet.errors import ConfigError
from promptfleet.escaping import printable
from promptfleet.federation.prepare import Prepared, check_possible, prepare
from promptfleet.federation.settings import all_keys, assigned_storage, trust_option
from promptfleet.search.folders import COMPARISONS
from promptfleet.storage.sync import synced_storage
from promptfleet.text_tables import folded

NEW_ONLY = ("name", "concurrent")


def main() -> int:
    parser = ArgumentParser(
        prog="compare.py", description="Compare methods on the same clients, seed by seed.", keys=all_keys
    )
    parser.add_argument("--methods", metavar="A,B,...", help="what is compared, or all")
    parser.add_argument("--seeds", metavar="0,1,...", help="one federation per method and seed")
    parser.add_argument(
        "--config", type=path_argument, metavar="FILE", help="a YAML file with keys of the federation, and 'methods'"
    )
    parser.add_set("set a key, methods.NAME.KEY for one method, or several")
    parser.add_trust_code()
    parser.add_argument(
        "--tune", type=path_argument, metavar="FILE", help="tune each method first, see search_spaces/methods.yaml"
    )
    parser.add_argument("--trials", type=int, metavar="N", help="of the tuning, per method")
    parser.add_argument("--reference", choices=sorted(REFERENCES), help="published figures, shown next to ours")
    parser.add_argument("--columns", metavar="A,B,...", help="columns of one table, such as test_accuracy,global,p")
    parser.add_argument("--target", type=float, metavar="X", help="validation accuracy to reach, in 0..1")
    parser.add_argument("--out", type=path_argument, metavar="DIR", help="folder for a copy of the results")
    parser.add_argument("--overwrite", action="store_true", help="replace what --out holds of another comparison")
    parser.add_argument("--name", help="of the new comparison")
    parser.add_argument(
        "--leave-one-domain-out",
        action="store_true",
        help="one comparison for each domain that no client has, called NAME-DOMAIN; run it again to resume",
    )
    parser.add_argument(
        "--resume", metavar="NAME", help="resume a comparison; --seeds 0,1,2 and --methods +A,B add to it"
    )
    parser.add_argument("--concurrent", type=int, metavar="N", help="federations side by side (default: 1)")
    parser.add_argument("--address", help="a running Ray cluster, or 'auto' (default: start Ray on this machine)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run, start nothing")
    parser.add_argument(
        "--rebuild-study", action="store_true", help="with --resume: make damaged studies from their trials' results"
    )
    arguments = parser.parse_args()
    if arguments.rebuild_study and not arguments.resume:
        parser.error("argument --rebuild-study: goes with --resume")

    if arguments.target is not None and not 0 < arguments.target <= 1:
        parser.error(f"argument --target: got {arguments.target:g}, should be above 0 and at most 1")
    if arguments.leave_one_domain_out:
        if arguments.resume or not arguments.name:
            parser.error("argument --leave-one-domain-out: goes with --name, not with --resume")
        return _leave_one_domain_out(arguments)
    if arguments.resume:
        for name in NEW_ONLY:
            if getattr(arguments, name) is not None:
                raise ConfigError(f"--{name}: a resumed comparison keeps its {name}")
        storage = assigned_storage(arguments.set)
        with (
            synced_storage(storage),
            COMPARISONS.resume(storage, arguments.resume, alone=not arguments.dry_run) as folder,
        ):
            begun = load_comparison(folder / COMPARISONS.file, storage, trust_code=arguments.trust_code)
            spec = _grown(begun, arguments)
            if not arguments.dry_run:
                (rebuild_studies if arguments.rebuild_study else check_studies)(begun, folder)
            return _run(spec, folder, arguments, is_grown=spec != begun)
    spec = _new_comparison(arguments)
    with nullcontext() if arguments.dry_run else synced_storage(next(spec.configs()).storage):
        return _run(spec, None, arguments)


def _run(spec: ComparisonSpec, folder: Path | None, arguments: Namespace, *, is_grown: bool = False) -> int:
    config = next(spec.configs())
    shown = _shown(arguments, config)
    if arguments.name:
        COMPARISONS.check_name(config.storage, arguments.name)
    out = Path(arguments.out) if arguments.out else None
    if out:
        check_out(out, folder, overwrite=arguments.overwrite)
    if arguments.address is None:
        plan_comparison(spec, local_nodes())
    possible = partial(prepare_possible, spec, possible_only=arguments.methods == ALL)
    if arguments.dry_run:
        spec, _ = possible(check_possible)
        print(describe_comparison(spec))
        return 0
    where = {"fork_server": config.runtime.fork_server, "storage": config.storage}
    with ray_with(partial(possible, prepare), arguments.address, **where) as ((spec, prepared), nodes):
        plan_comparison(spec, nodes)
        with kept_in(folder, spec, arguments.name, is_grown=is_grown) as folder:
            outcome = _compare(spec, folder, prepared, nodes, out, shown=shown)
    _finish(spec, folder, out, outcome)
    return INTERRUPTED if outcome.interrupted else 0


def _shown(arguments: Namespace, config: FederationConfig) -> Shown:
    return Shown(arguments.reference, parse_columns(arguments.columns, config.evaluation.transfer), arguments.target)


def _compare(
    spec: ComparisonSpec, folder: Path, prepared: Prepared, nodes: Sequence[Node], out: Path | None, *, shown: Shown
) -> ComparisonOutcome:
    """Run the comparison in its folder on the connected Ray, with its tables also in ``out``."""
    storage = next(spec.configs()).storage
    federations, place = len(spec.methods) * len(spec.seeds), storage.shown(folder)
    print(printable(f"comparison {folder.name}: {federations} federations, in {place}"), file=sys.stderr)
    options = f"{storage.option}{trust_option(spec.named_code())}"
    with leaving_when_ray_is_gone(f"resume with: python jobs/compare.py --resume {folder.name}{options}"):
        return run_comparison(spec, folder, prepared, nodes, shown, out)


def _finish(spec: ComparisonSpec, folder: Path, out: Path | None, outcome: ComparisonOutcome) -> None:
    """Write the figures to the comparison's folder and to ``out``, if that is given, and print the outcome."""
    if outcome.report is not None:
        write_figures(outcome.report, *filter(None, [folder, out]))
    print(describe_outcome(spec, folder, out or folder, outcome))


def _leave_one_domain_out(arguments: Namespace) -> int:
    """Run one comparison for each domain, or the rest of it if it was begun, then write the table of all domains."""
    first = next(_new_comparison(arguments).configs())
    shown = _shown(arguments, first)
    domains = domains_to_leave_out(first)
    specs = {name: _new_comparison(arguments, f"partition.held_out_domain={name}") for name in domains}
    each = EachDomain(specs, arguments.name, Path(arguments.out) if arguments.out else None)
    if arguments.dry_run:
        check_possible(*each.configs())
        print(describe_comparison(specs[domains[0]]))
        print(folded(f"the same with each of these domains left out: {', '.join(domains)}"))
        return 0
    with synced_storage(first.storage):
        each.check(overwrite=arguments.overwrite, trust_code=arguments.trust_code)
        table = each.run(arguments.address, partial(_compare, shown=shown), _finish)
    if table is None:
        return INTERRUPTED
    print(describe_domains(table))
    return 0


def _new_comparison(arguments: Namespace, *assignments: str) -> ComparisonSpec:
    return read_comparison(
        arguments.config,
        [*arguments.set, *assignments],
        methods=parse_methods(arguments.methods or ""),
        seeds=parse_seeds(arguments.seeds or ""),
        tune=arguments.tune,
        trials=arguments.trials,
        concurrent=1 if arguments.concurrent is None else arguments.concurrent,
        possible_only=arguments.methods == ALL,
        trust_code=arguments.trust_code,
    )


def _grown(begun: ComparisonSpec, arguments: Namespace) -> ComparisonSpec:
    return grown(
        begun,
        methods=arguments.methods,
        seeds=arguments.seeds,
        config=arguments.config,
        assignments=[entry for entry in arguments.set if not entry.startswith("storage.")],
        tune=arguments.tune,
        trials=arguments.trials,
        trust_code=arguments.trust_code,
    )


if __name__ == "__main__":
    run(main)
