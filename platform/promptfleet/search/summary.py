"""Sweep in words and tables: its plan, and its outcome."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from rich.table import Table

from promptfleet.cluster.session import local_nodes
from promptfleet.config import flatten
from promptfleet.federation.settings import trust_option
from promptfleet.search.finalists import Finalist
from promptfleet.search.objective import MAIN
from promptfleet.search.outcome_files import BEST_FILE, TRIALS_FILE
from promptfleet.search.progress import format_params
from promptfleet.search.spec import SweepSpec
from promptfleet.search.sweep import SweepOutcome, concurrent_trials, plan_sweep
from promptfleet.text_tables import folded, render
from promptfleet.tracking.missing import missing_lines
from promptfleet.trial_records import TrialRecord, count_states, format_value, name_ties, ranked_trials
from promptfleet.yaml_files import as_yaml

BEST_SHOWN = 5
NOT_SEARCHED = "-"  # a key of another trial


def describe_plan(spec: SweepSpec) -> str:
    """Describe the resolved space, federation and resources of an unstarted sweep."""
    (node,) = nodes = local_nodes()
    shares = plan_sweep(spec, nodes)
    space = Table(title="search space", title_justify="left")
    space.add_column("key")
    space.add_column("values")
    for key, parameter in spec.space.items():
        space.add_row(key, as_yaml(parameter.entry()))
    federation = Table(title="federation", title_justify="left")
    federation.add_column("key")
    federation.add_column("value")
    for key, value in flatten(spec.base_config().to_dict()).items():
        if key not in spec.space:
            federation.add_row(key, as_yaml(value))
    resources = [
        f"resources of one federation: 1 server and {shares.client_actors} client actors",
        f"  each client: {shares.client_cpu:g} CPU, {shares.client_gpu:g} GPU; server: {shares.server_cpu:g} CPU",
        *([f"  client actors to a GPU: {shares.actors_per_gpu}"] if shares.client_gpu else []),
        f"  this machine: {node.cpus:g} CPU, {node.gpus:g} GPU",
        f"budget: {spec.settings.trials} trials, {concurrent_trials(spec, nodes)} at a time; nothing was started",
    ]
    return "\n".join([render(space), render(federation), *resources])


def _chosen_by(spec: SweepSpec, best: TrialRecord) -> str:
    objective = spec.settings.objective
    return "chosen by it" if objective == MAIN else f"chosen by {objective}: {best.value:.3f}"


def describe_outcome(spec: SweepSpec, folder: Path, outcome: SweepOutcome) -> str:
    """Describe the best trials, the best one's test accuracy next to zero-shot's, and where to look further."""
    storage = spec.base_config().storage
    table = _grid_points if spec.settings.sampler == "grid" else _best_trials
    caveat = spec.base_config().backbone.caveat
    lines = [*([folded(caveat)] if caveat else []), render(table(spec, outcome.records))]
    if outcome.best and outcome.best_result:
        result, seeds = outcome.best_result, spec.settings.seeds_per_trial
        chosen = "winner of the finalists" if outcome.finalists else _chosen_by(spec, outcome.best)
        of_seeds = f" and {seeds} seeds" if seeds > 1 else ""
        val = outcome.best.value if seeds > 1 and spec.settings.objective == MAIN else result.honest_val_accuracy
        test = outcome.best.test_accuracy if seeds > 1 else result.test_accuracy
        lines += [
            folded(f"best trial: {outcome.best.number}  {format_params(outcome.best.params)}"),
            f"  validation accuracy {val:.3f}, {chosen}",
            *([f"  {name_ties(outcome.ties)}"] if outcome.ties else []),
            f"  test accuracy       {test:.3f}, mean over {len(result.seen_clients)} clients{of_seeds}",
            *([f"  honest clients      {result.honest_test_accuracy:.3f}"] if result.adversaries else []),
            f"  zero-shot CLIP      {result.zero_shot_accuracy:.3f} on the same clients",
        ]
    if outcome.front:
        lines.append(render(_front(spec, outcome)))
    infeasible = sum(not record.feasible for record in outcome.records)
    if outcome.finalists:
        lines.append(render(_finalists(spec, outcome.finalists)))
    counts = [f"{count} {state}" for state, count in count_states(outcome.records).items() if state != "running"]
    ended_by = [f"the search ended: budget.{outcome.used_up} is used up"] if outcome.used_up else []
    lines += [
        f"trials: {', '.join(counts)}",
        *([f"infeasible: {infeasible} of them do not keep a constraint"] if infeasible else []),
        *ended_by,
        f"results: {storage.shown(folder)}",
        f"look at it: {outcome.ui_hint}",
    ]
    resume = f"python jobs/tune.py --resume {folder.name}{storage.option}{trust_option(spec.named_code())}"
    if outcome.best and not outcome.interrupted:
        best = f"--config {shlex.quote(str(folder / BEST_FILE))}{trust_option(spec.named_code())}"
        method = spec.config(outcome.best.params).method
        methods = ",".join(dict.fromkeys([method, "promptfl"]))
        lines += [
            f"trials as a table: {folder / TRIALS_FILE}",
            f"  as another file:  {resume} --export parquet",
            f"more trials:       {resume} --trials {len(outcome.records) + spec.settings.trials}",
            f"train the best one: python jobs/train.py {best}",
            f"compare it: python jobs/compare.py {best} --methods {methods} --seeds 0,1,2",
        ]
    lines += missing_lines(outcome.untracked, outcome.undrawn if not outcome.interrupted else 0, resume)
    if outcome.interrupted:
        lines.append(f"not finished; resume with: {resume}")
    return "\n".join(lines)


def _best_trials(spec: SweepSpec, records: Sequence[TrialRecord]) -> Table:
    complete = ranked_trials(records)
    table = Table(title=f"best of {len(complete)} complete trials", title_justify="left")
    for name in ("trial", "validation", "test", "seconds", *spec.space):
        table.add_column(name, justify="right")
    for record in complete[:BEST_SHOWN]:
        test = "-" if record.test_accuracy is None else f"{record.test_accuracy:.3f}"
        values = [format_value(record.params[key]) if key in record.params else NOT_SEARCHED for key in spec.space]
        table.add_row(str(record.number), f"{record.value:.3f}", test, f"{record.seconds:.1f}", *values)
    return table


def _front(spec: SweepSpec, outcome: SweepOutcome) -> Table:
    """Return the trials that no other one beats in every objective, the highest main objective first."""
    table = Table(title="Pareto front: no other trial is better in every objective", title_justify="left")
    for name in ("trial", *spec.goals.objectives, *spec.space):
        table.add_column(name, justify="right")
    for record in sorted((outcome.records[number] for number in outcome.front), key=lambda one: -one.values[0]):
        values = [format_value(record.params[key]) if key in record.params else NOT_SEARCHED for key in spec.space]
        table.add_row(str(record.number), *[f"{value:.4g}" for value in record.values], *values)
    return table


def _finalists(spec: SweepSpec, finalists: Sequence[Finalist]) -> Table:
    seeds = ", ".join(map(str, spec.settings.finalists.seeds))
    table = Table(title=f"finalists, run again with seeds {seeds}; the first is the winner", title_justify="left")
    for name in ("trial", "validation", "95 % interval", "test", "below the winner", "p", ""):
        table.add_column(name, justify="right")
    for one in finalists:
        against = ["-", "-", "winner"]
        if one.p is not None:
            against = [f"{one.gap:.3f}", f"{one.p:.2g}", "noise" if one.is_noise else "worse"]
        figures = [f"{one.val_accuracy:.3f}", f"± {one.interval:.3f}", f"{one.test_accuracy:.3f}"]
        table.add_row(str(one.number), *figures, *against)
    return table


def _grid_points(spec: SweepSpec, records: Sequence[TrialRecord]) -> Table:
    """Return a row per point, in the order of the grid: mean and standard deviation over its seeds.

    If some federations are attacked, the honest clients' test accuracy follows that of all clients.
    """
    keys = [key for key in spec.space if key != "seed"]
    points: dict[tuple, list[TrialRecord]] = {}
    for record in records:
        if record.state == "complete":
            points.setdefault(tuple(record.params.get(key, NOT_SEARCHED) for key in keys), []).append(record)
    table = Table(title="mean and standard deviation over seeds", title_justify="left")
    attacked = any(record.honest_test_accuracy is not None for record in records)
    for name in (*keys, "seeds", "validation", "test", *(["honest test"] if attacked else [])):
        table.add_column(name, justify="right")
    for point, trials in points.items():
        test = [trial.test_accuracy for trial in trials if trial.test_accuracy is not None]
        honest = [trial.honest_test_accuracy for trial in trials if trial.honest_test_accuracy is not None]
        columns = [[trial.value for trial in trials], test, *([honest or test] if attacked else [])]
        accuracies = [_mean_and_spread(values) for values in columns]
        table.add_row(*[format_value(value) for value in point], str(len(trials)), *accuracies)
    return table


def _mean_and_spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{fmean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"
