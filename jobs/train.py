"""Run one federation, or resume one: python jobs/train.py --set clients=5 --set rounds=3"""

import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

from promptfleet.cluster.watch import leaving_when_ray_is_gone
from promptfleet.command_line import INTERRUPTED, ArgumentParser, path_argument, run
from promptfleet.config import FederationConfig
from promptfleet.disks import check_writable
from promptfleet.federation.checkpoints.begin import (
    check_new,
    default_folder,
    named_folder,
    resumed_as,
    resumed_config,
)
from promptfleet.federation.checkpoints.folder import RESULT_FILE
from promptfleet.federation.drive import Calling
from promptfleet.federation.other_datasets import download_datasets
from promptfleet.federation.reports import FederationResult, RoundReport, nothing_accepted
from promptfleet.federation.run import run_federation
from promptfleet.federation.settings import all_keys, assigned_storage, read_federation_config, trust_option
from promptfleet.storage.sync import synced_storage
from promptfleet.terminal import LiveLine
from promptfleet.tracking.background import track_federation


def main() -> int:
    parser = ArgumentParser(prog="train.py", description="Run one federation.", keys=all_keys)
    parser.add_argument("--config", type=path_argument, metavar="FILE", help="a YAML file with keys of the federation")
    parser.add_set()
    parser.add_trust_code()
    parser.add_argument(
        "--out",
        type=path_argument,
        metavar="DIR",
        help="folder for result and checkpoints (default: under storage.path)",
    )
    parser.add_argument("--resume", type=path_argument, metavar="DIR", help="resume the federation in that folder")
    parser.add_argument("--overwrite", action="store_true", help="start again; replaces what the folder holds")
    parser.add_argument("--address", help="a running Ray cluster, or 'auto' (default: start Ray on this machine)")
    parser.add_argument("--download", action="store_true", help="fetch datasets first whose folders are not there")
    arguments = parser.parse_args()

    if arguments.resume and (arguments.config or arguments.out or arguments.overwrite):
        parser.error("argument --resume: its folder has the configuration; --config, --out, --overwrite start another")
    if arguments.resume:
        storage = assigned_storage(arguments.set)
        out = named_folder(storage, "--resume", arguments.resume)
        with synced_storage(storage):
            return _train(resumed_config(out, arguments.set, trust_code=arguments.trust_code), out, arguments)
    config = read_federation_config(arguments.config, arguments.set, trust_code=arguments.trust_code)
    out = _output_folder(config, arguments.out)
    with synced_storage(config.storage):
        return _train(config, out, arguments)


def _train(config: FederationConfig, out: Path, arguments: Namespace) -> int:
    """Run the federation, or the rest of it, and print its outcome; return the exit status."""
    if not (arguments.resume or arguments.out):
        check_writable(config.storage.folder, named=f"storage.path={config.storage.path}")
    if not arguments.resume:
        check_new(out, config, overwrite=arguments.overwrite)
    if arguments.download:
        download_datasets(config)
    storage = config.storage
    option = storage.option if storage.address else ""
    resume = f"python jobs/train.py --resume {resumed_as(storage, out)}{option}{trust_option([config.method])}"
    with leaving_when_ray_is_gone(f"resume with: {resume}"), track_federation(config) as tracked:
        listeners = [Calling(partial(_print_round, rounds=config.rounds)), tracked]
        where = {"address": arguments.address, "folder": out, "overwrite": arguments.overwrite}
        result = run_federation(config, listeners=listeners, **where)
        tracked.finish(result)
    print(_summary(result, config.backbone.caveat, storage.shown(out / RESULT_FILE)))
    if tracked.ui_hint:
        print(f"look at it: {tracked.ui_hint}")
    if tracked.untracked:
        what = "a part of it" if tracked.ui_hint else "it"
        print(f"MLflow lacks {what} ({tracked.untracked}); write the missing part with: {resume}")
    return INTERRUPTED if tracked.interrupted else 0


def _output_folder(config: FederationConfig, name: str | None) -> Path:
    if name is not None:
        return named_folder(config.storage, "--out", name)
    return default_folder(config)


def _print_round(report: RoundReport, *, rounds: int) -> None:
    LiveLine(sys.stderr).say(_round_line(report, rounds))


def _round_line(report: RoundReport, rounds: int) -> str:
    loss = "-" if report.train_loss is None else f"{report.train_loss:.3f}"
    rejected = f"  rejected {sorted(report.rejected)}" if report.rejected else ""
    rejected += f"  dropped {sorted(report.dropped)}" if report.dropped else ""
    return (
        f"round {report.round}/{rounds}  cohort {len(report.cohort)}  loss {loss}  {_validation(report)}  "
        f"up {report.uploaded_bytes / 1024:.0f} KB  down {report.downloaded_bytes / 1024:.0f} KB  "
        f"{report.seconds:.1f} s{rejected}"
    )


def _validation(report: RoundReport) -> str:
    """Return the validation accuracies of a round; a dash where it was not evaluated."""
    if report.val_accuracy is None:
        return "val -"
    return f"val {report.val_accuracy:.3f} (min {report.val_accuracy_min:.2f}, sd {report.val_accuracy_std:.2f})"


def _summary(result: FederationResult, caveat: str, path: str) -> str:
    reason = nothing_accepted(result.rounds, len(result.rounds))
    return "\n".join(
        [
            f"{result.method} on {result.dataset}: {len(result.seen_clients)} clients, {len(result.rounds)} rounds",
            *([f"  {caveat}"] if caveat else []),
            *([f"  NOTHING WAS LEARNED: {reason}"] if reason else []),
            f"  test accuracy        {result.test_accuracy:.3f}, mean over clients after the last round",
            f"  validation accuracy  {result.val_accuracy:.3f}",
            f"  zero-shot CLIP       {result.zero_shot_accuracy:.3f} on the same test parts",
            *_on_unseen(result),
            *_simulated(result),
            f"result: {path}",
        ]
    )


def _on_unseen(result: FederationResult) -> list[str]:
    """Return lines about new classes, domain and clients, if any; a dash where the method cannot predict them."""
    lines = []
    for title, names in {
        "base / new classes ": ("test/base", "test/new"),
        "unseen domain      ": ("test/unseen_domain",),
        "unseen clients     ": ("test/unseen_clients", "test/unseen_clients_tuned"),
        **{f"on {name:16}": (f"test/transfer/{name}",) for name in result.config["evaluation"]["transfer"]},
    }.items():
        known = [f"{result.zero_shot[name].mean:.3f}" for name in names if name in result.zero_shot]
        if known:
            found = [f"{result.accuracy[name].mean:.3f}" if name in result.accuracy else "-" for name in names]
            lines.append(f"  {title}  {' / '.join(found)} (zero-shot CLIP {' / '.join(known)})")
    return lines


def _simulated(result: FederationResult) -> list[str]:
    """Return lines about attack and privacy, if the configuration has them."""
    lines = []
    if attackers := len(result.adversaries):
        honest = len(result.seen_clients) - attackers
        lines.append(f"  honest clients       {result.honest_test_accuracy:.3f}, test accuracy of {honest}")
        lines.append(f"  attack               {result.config['adversary']['kind']} by {attackers} clients")
    if result.epsilon_spent is not None:
        privacy = result.config["privacy"]
        lines.append(
            f"  privacy              epsilon {result.epsilon_spent:.3g} of {privacy['epsilon']:g} spent, "
            f"delta {privacy['delta']:g}; noise multiplier {result.noise_multiplier:.3g}"
        )
    return lines


if __name__ == "__main__":
    run(main)
