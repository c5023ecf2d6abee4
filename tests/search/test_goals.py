"""Objectives and constraints: read, kept in the study as Optuna has them, and learned from."""

import pytest
from optuna.trial import TrialState

from promptfleet.errors import ConfigError
from promptfleet.search.final_stage import final_space
from promptfleet.search.goals import Constraint, parse_goals
from promptfleet.search.quantities import RoundFigures
from promptfleet.search.records import trial_record
from promptfleet.search.space import FloatRange, IntRange
from promptfleet.search.spec import SweepSettings, parse_sweep
from promptfleet.search.study import SweepStudy
from promptfleet.tracking.sweep_run import trial_row
from promptfleet.trial_records import best_trial

SPACE = {"experts": IntRange(1, 9), "prompt_lr": FloatRange(0.0, 1.0)}
BOTH = {"val/local": "max", "bytes_up": "min"}
SEARCH = {"space": {"experts": {"int": [1, 4]}}}


def open_study(folder, **settings):
    return SweepStudy(folder, SPACE, SweepSettings(trials=40, startup_trials=4, **settings), 2)


def run_trial(study, accuracy, used):
    """Run a trial of two rounds; ``used`` is its number of bytes after each. Returns its number."""
    proposal = study.next_proposal()
    for round_index in (1, 2):
        amount = used(proposal.params) * round_index
        figures = RoundFigures({"bytes_up": amount, "bytes": amount, "bytes_per_round": amount / round_index}, [])
        study.report(proposal.number, round_index, accuracy(proposal.params), figures)
        if study.should_stop(proposal.number, round_index) and round_index == 1:
            study.prune(proposal.number)
            return proposal.number
    study.complete(proposal.number, accuracy(proposal.params))
    return proposal.number


def test_bounds_are_exceeded_by_what_is_above_or_below_them():
    goals = parse_goals(None, {"bytes": {"max": 100}, "worst_client": {"min": 0.5, "max": 0.9}}, source="a")
    assert goals.violations({"bytes": 130, "worst_client": 0.4}) == pytest.approx(
        {"bytes max": 30, "worst_client min": 0.1, "worst_client max": -0.5}
    )
    assert goals.are_lost({"bytes": 101, "worst_client": 0.6})
    assert not goals.are_lost({"bytes": 99, "worst_client": 0.1}), "accuracies still rise"
    assert not Constraint("bytes_per_round", None, 5.0).is_lost({"bytes_per_round": 9.0}), "a mean may fall again"


def test_an_infeasible_trial_is_never_the_best(study_folder):
    study = open_study(study_folder, pruner="none", constraint={"bytes_per_round": {"max": 5}})
    for value, used in [(0.9, 8), (0.7, 5), (0.6, 2)]:
        run_trial(study, lambda _, value=value: value, lambda _, used=used: used)
    again = open_study(study_folder, pruner="none", constraint={"bytes_per_round": {"max": 5}})
    assert [trial.constraints for trial in again.trials()] == [{"bytes_per_round max": by} for by in (3.0, 0.0, -3.0)]
    records = [trial_record(trial) for trial in again.trials()]
    assert [record.feasible for record in records] == [False, True, True]
    assert best_trial(records).number == 1
    assert ("feasible" in trial_row(records[0]), "feasible" in trial_row(records[1])) == (True, False)
    spec = parse_sweep({**SEARCH, "finalists": {"trials": 5, "seeds": [7, 8]}}, source="a")
    assert final_space(spec, again)["trial"].values == (1, 2)


def test_a_trial_that_cannot_become_feasible_runs_no_further_round(study_folder):
    study = open_study(study_folder, pruner="none", constraint={"bytes": {"max": 5}})
    for used in (6, 3, 2):
        run_trial(study, lambda _: 0.5, lambda _, used=used: used)
    states = [(trial.state, len(trial.intermediate_values)) for trial in study.trials()]
    assert states == [(TrialState.PRUNED, 1), (TrialState.COMPLETE, 2), (TrialState.COMPLETE, 2)]
    assert [trial.constraints["bytes max"] for trial in study.trials()] == [1, 1, -1]


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("nsga2", marks=pytest.mark.slow)])
def test_samplers_learn_from_constraints(study_folder, sampler):
    options = {"population_size": 6} if sampler == "nsga2" else None
    bound = {"bytes_per_round": {"max": 30}}
    study = open_study(study_folder, sampler=sampler, sampler_options=options, pruner="none", constraint=bound)
    for _ in range(18):
        run_trial(study, lambda params: params["experts"] / 10, lambda params: 100 * params["prompt_lr"])
    feasible = [all(by <= 0 for by in trial.constraints.values()) for trial in study.trials()]
    assert sum(feasible[-9:]) > 9 * 0.5, "a random trial is feasible with probability 0.3"


def test_several_objectives_have_a_front_and_no_pruning(tmp_path):
    study = open_study(tmp_path, objectives=BOTH, pruner="none")
    points = [(0.9, 9), (0.8, 2), (0.7, 5), (0.6, 1)]
    for value, used in points:
        run_trial(study, lambda _, value=value: value, lambda _, used=used: used / 2)
    again = open_study(tmp_path, objectives=BOTH, pruner="none")
    assert [tuple(trial.values) for trial in again.trials()] == points
    assert again.front() == [0, 1, 3]
    assert trial_record(again.trials()[1]).values == (0.8, 2.0)
    assert trial_record(again.trials()[1]).value == 0.8
    assert again.rounds_reported(0) == 2
    assert again.next_proposal().number == 4


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("nsga2", marks=pytest.mark.slow)])
def test_with_several_objectives_a_killed_search_equals_the_undisturbed_one(tmp_path, sampler):
    options = {"population_size": 3} if sampler == "nsga2" else None
    settings = {"sampler": sampler, "sampler_options": options, "objectives": BOTH, "pruner": "none"}
    accuracy, used = (lambda params: params["prompt_lr"]), (lambda params: params["experts"])
    rows = {}
    for name, restarts in (("undisturbed", ()), ("killed", (3, 7))):
        folder = tmp_path / name
        folder.mkdir()
        study = open_study(folder, **settings)
        for index in range(9):
            if index in restarts:
                study = open_study(folder, **settings)
            run_trial(study, accuracy, used)
        rows[name] = [(trial.params, trial.values) for trial in study.trials()]
    assert rows["killed"] == rows["undisturbed"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"constraint": {"bytes_per_rund": {"max": 3}}},
            "constraint: there is no quantity 'bytes_per_rund'; did you mean 'bytes_per_round'?",
        ),
        ({"constraint": {"bytes": {"max": "few"}}}, "constraint.bytes: got {'max': 'few'}, should be {min: number} or"),
        ({"constraint": {"bytes": {"most": 3}}}, "a.yaml: constraint.bytes: got {'most': 3}, should be {min: number}"),
        ({"constraint": {"bytes": {"min": 3, "max": 2}}}, "constraint.bytes: min 3 must not be above max 2"),
        ({"objectives": {**BOTH, "bytes_upp": "min"}}, "objectives: there is no quantity 'bytes_upp'; did you mean"),
        (
            {"objectives": {"val/local": "max", "bytes_up": "low"}},
            "objectives.bytes_up: got 'low', should be max",
        ),
        ({"objectives": {"bytes_up": "min"}}, "a.yaml: objectives: the first should be val/local: max"),
        ({"objectives": BOTH, "pruner": "asha"}, "pruner: got asha, but Optuna stops no trial early with several obj"),
        ({"objectives": BOTH, "sampler": "cmaes"}, "objectives: sampler cmaes has one objective and no constraints"),
        ({"constraint": {"bytes": {"max": 3}}, "sampler": "cmaes"}, "constraint: sampler cmaes has one objective and"),
        ({"objectives": BOTH, "finalists": {"trials": 2, "seeds": [5, 6]}}, "finalists: are the best of one objective"),
        ({"enqueue": [{"expert": 2}]}, "a.yaml: enqueue[0]: expert is not searched; did you mean 'experts'?"),
        ({"enqueue": [{"experts": 1}, {"experts": 7}]}, "enqueue[1]: experts=7 is outside of {int: [1, 4]"),
        (
            {"enqueue": [{"experts": 1}], "sampler": "grid"},
            "enqueue: a grid runs each of its points and learns",
        ),
        ({"start_from_ignores": ["sed"]}, "start_from_ignores: unknown key 'sed'; did you mean 'seed'?"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(values, message):
    with pytest.raises(ConfigError) as caught:
        parse_sweep({**SEARCH, **values}, source="a.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_search_file_with_goals_stays_the_same():
    spec = parse_sweep({**SEARCH, "objectives": BOTH, "constraint": {"bytes": {"max": 3}}}, source="a")
    assert (spec.settings.pruner, spec.goals.are_several) == ("none", True)
    assert parse_sweep(spec.to_dict(), source="again") == spec


def test_enqueued_points_are_tried_first_after_the_defaults(study_folder):
    settings = SweepSettings(trials=9, enqueue=[{"experts": 3}, {"experts": 8, "prompt_lr": 0.25}])
    study = SweepStudy(study_folder, SPACE, settings, 2, {"experts": 5})
    params = [study.next_proposal().params for _ in range(4)]
    assert [one["experts"] for one in params[:3]] == [5, 3, 8]
    assert params[2]["prompt_lr"] == 0.25
    assert len({one["prompt_lr"] for one in params}) == 4, "what is not given is drawn"
