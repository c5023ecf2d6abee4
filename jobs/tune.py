"""Search hyperparameters of whole federations: python jobs/tune.py --search search_spaces/gating.yaml"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from promptfleet.assignments import parse_assignments
from promptfleet.cluster.session import local_nodes, ray_with
from promptfleet.cluster.watch import leaving_when_ray_is_gone
from promptfleet.command_line import INTERRUPTED, ArgumentParser, path_argument, run
from promptfleet.config import StorageConfig
from promptfleet.disks import check_writable
from promptfleet.errors import ConfigError
from promptfleet.escaping import printable
from promptfleet.federation.other_datasets import download_datasets
from promptfleet.federation.prepare import check_possible, prepare
from promptfleet.federation.settings import all_keys, assigned_storage, trust_option
from promptfleet.search.folders import SWEEPS, read_begun
from promptfleet.search.history import FILE as HISTORY
from promptfleet.search.history import History, collect_history, write_history
from promptfleet.search.load import load_sweep
from promptfleet.search.rebuild import rebuild_study
from promptfleet.search.spec import SweepSpec, read_sweep
from promptfleet.search.study import SweepStudy
from promptfleet.search.summary import describe_outcome, describe_plan
from promptfleet.search.sweep import check_budget, open_study, plan_sweep, run_sweep
from promptfleet.search.trials_frame import FORMATS, export_trials
from promptfleet.storage.remote import bring_file
from promptfleet.storage.sync import synced_storage


def main() -> int:
    parser = ArgumentParser(prog="tune.py", description="Search hyperparameters of whole federations.", keys=all_keys)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--search", type=path_argument, metavar="FILE", help="a search space, see search_spaces/")
    what.add_argument("--resume", metavar="NAME", help="resume a sweep")
    parser.add_argument(
        "--config", type=path_argument, metavar="FILE", help="a federation to search around, see configs/"
    )
    parser.add_argument("--trials", type=int, metavar="N", help="number of federations in all")
    parser.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="PART=N",
        help="limit of a part of the budget, such as rounds=900",
    )
    parser.add_set("fix a key of the federation, or several")
    parser.add_trust_code()
    parser.add_argument("--name", help="of the new sweep (default: the search file's)")
    parser.add_argument("--address", help="a running Ray cluster, or 'auto' (default: start Ray on this machine)")
    parser.add_argument("--download", action="store_true", help="fetch datasets first whose folders are not there")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved space and resources, start nothing")
    parser.add_argument(
        "--export", choices=FORMATS, help="with --resume: write the trials so far as a table, start nothing"
    )
    parser.add_argument(
        "--rebuild-study", action="store_true", help="with --resume: make a damaged study from its trials' results"
    )
    arguments = parser.parse_args()
    if arguments.rebuild_study and not arguments.resume:
        parser.error("argument --rebuild-study: goes with --resume")
    if arguments.export and not arguments.resume:
        parser.error("argument --export: goes with --resume")
    if arguments.resume and arguments.name:
        parser.error("argument --name: a resumed sweep keeps its name")
    if arguments.resume and arguments.config:
        parser.error("argument --config: a resumed sweep keeps its configuration")

    budget = parse_assignments(arguments.budget, {}, option="--budget")
    if arguments.resume:
        _check_storage_only(arguments.set)
        storage = assigned_storage(arguments.set)
        if arguments.export:
            return _export(arguments, storage)
        with synced_storage(storage), SWEEPS.resume(storage, arguments.resume, alone=not arguments.dry_run) as folder:
            new = {"trials": arguments.trials, "budget": budget}
            spec = read_begun(storage, folder, **new, trust_code=arguments.trust_code)
            if not arguments.dry_run:
                check_budget(spec, _study(spec, folder, rebuild=arguments.rebuild_study), budget)
            return _run(spec, folder, arguments)
    spec = read_sweep(
        arguments.search,
        arguments.set,
        config=arguments.config,
        trials=arguments.trials,
        budget=budget,
        trust_code=arguments.trust_code,
    )
    with nullcontext() if arguments.dry_run else synced_storage(spec.base_config().storage):
        history = collect_history(spec, trust_code=arguments.trust_code)
        return _run(spec, None, arguments, history)


def _run(spec: SweepSpec, folder: Path | None, arguments: Namespace, history: History = ()) -> int:
    base = spec.base_config()
    if arguments.name:
        SWEEPS.check_name(base.storage, arguments.name)
    if arguments.address is None:
        plan_sweep(spec, local_nodes())
    if arguments.dry_run:
        if not arguments.download:  # or the dataset may not be there yet
            check_possible(*spec.all_configs())
        print(describe_plan(spec))
        return 0
    if arguments.download:
        download_datasets(base)
    where = {"fork_server": base.runtime.fork_server, "storage": base.storage}
    with ray_with(lambda: prepare(*spec.all_configs()), arguments.address, **where) as (prepared, nodes):
        plan_sweep(spec, nodes)
        with _kept_in(folder, spec, arguments, history) as folder:
            shown = base.storage.shown(folder)
            print(printable(f"sweep {folder.name}: {spec.settings.trials} federations, in {shown}"), file=sys.stderr)
            options = f"{base.storage.option}{trust_option(spec.named_code())}"
            hint = f"resume with: python jobs/tune.py --resume {folder.name}{options}"
            with leaving_when_ray_is_gone(hint):
                outcome = run_sweep(spec, folder, prepared, nodes)
    print(describe_outcome(spec, folder, outcome))
    return INTERRUPTED if outcome.interrupted or outcome.drawing_interrupted else 0


@contextmanager
def _kept_in(folder: Path | None, spec: SweepSpec, arguments: Namespace, history: History) -> Iterator[Path]:
    """Give the sweep's folder, with a new budget written into it; a new sweep's is made now."""
    storage = spec.base_config().storage
    if folder is None:
        name = {"name": arguments.name, "default_name": Path(arguments.search).stem}
        with SWEEPS.create(spec.to_dict(), storage, **name) as new:
            if history:
                write_history(new, history)
                bring_file(storage, new / HISTORY)
            yield new
    else:
        if arguments.trials is not None or arguments.budget:
            SWEEPS.write(storage, folder, spec.to_dict())
        yield folder


def _export(arguments: Namespace, storage: StorageConfig) -> int:
    """Write the trials so far next to the study, also while the sweep runs."""
    check_writable(SWEEPS.find(storage, arguments.resume))
    sweep = load_sweep(arguments.resume, storage=storage, trust_code=arguments.trust_code)
    path = sweep.folder / f"trials.{arguments.export}"
    export_trials(sweep.trials, path, arguments.export)
    bring_file(storage, path)
    print(f"{len(sweep.records)} trials: {storage.shown(path)}")
    return 0


def _study(spec: SweepSpec, folder: Path, *, rebuild: bool) -> SweepStudy:
    if not rebuild:
        return open_study(spec, folder)
    seeds = spec.settings.seeds_per_trial
    return rebuild_study(folder, lambda place: open_study(spec, place), spec.space, spec.config, seeds=seeds)


def _check_storage_only(assignments: Sequence[str]) -> None:
    others = [entry for entry in assignments if not entry.startswith("storage.")]
    if others:
        raise ConfigError(
            f"--set {others[0]}: a resumed sweep keeps its configuration (only storage.path may be given)"
        )


if __name__ == "__main__":
    run(main)
