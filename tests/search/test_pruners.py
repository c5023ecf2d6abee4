"""Early stopping: each pruner stops what it should, and nothing else; Optuna is always told of it as pruned."""

import pytest
from optuna.trial import TrialState

from promptfleet.errors import ConfigError
from promptfleet.federation.reports import RoundReport
from promptfleet.search.objective import objective_of
from promptfleet.search.quantities import RoundFigures
from promptfleet.search.space import IntRange
from promptfleet.search.spec import SweepSettings, parse_sweep
from promptfleet.search.study import SweepStudy
from tests.federation.scores import evaluation

SPACE = {"experts": IntRange(1, 9)}
CURVES = [(0.5, 0.6, 0.7, 0.8), (0.4, 0.5, 0.6, 0.7), (0.3, 0.4, 0.5, 0.6)]


def open_study(folder, pruner, **settings):
    settings = {"grace_rounds": 2, "startup_trials": 3, **settings}
    return SweepStudy(folder, SPACE, SweepSettings(trials=9, pruner=pruner, **settings), 4)


def eight(value):
    return [value + client / 64 for client in range(8)]


def run_trial(study, values, clients=eight):
    """Run a trial as the driver does; returns the round after which it was stopped, None for none."""
    number = study.next_proposal().number
    for round_index, value in enumerate(values, start=1):
        study.report(number, round_index, value, RoundFigures({}, clients(value)))
        if round_index < 4 and study.should_stop(number, round_index):
            study.prune(number)
            return round_index
    study.complete(number, values[-1])
    return None


@pytest.mark.parametrize(
    ("pruner", "stopped"),
    [("asha", [None, 2, 2, 2]), ("median", [None, None, None, 2]), ("none", [None] * 4), ("wilcoxon", [None, 2, 2, 2])],
)
def test_a_worse_trial_is_stopped_where_the_pruner_says_so(study_folder, pruner, stopped):
    study = open_study(study_folder, pruner)
    assert [run_trial(study, values) for values in [*CURVES, (0.2, 0.3, 0.4, 0.5)]] == stopped
    states = {None: TrialState.COMPLETE, 2: TrialState.PRUNED}
    assert [trial.state for trial in study.trials()] == [states[round_index] for round_index in stopped]
    assert study.trials()[3].value == (0.5 if stopped[3] is None else 0.3), "a pruned one has its last value"


def test_no_trial_is_stopped_within_its_grace(study_folder):
    study = open_study(study_folder, "median", grace_rounds=3)
    assert [run_trial(study, values) for values in [*CURVES, (0.2, 0.3, 0.4, 0.5)]] == [None, None, None, 3]


@pytest.mark.parametrize(("patience", "stopped"), [(0, 3), (1, None)])
def test_with_patience_a_trial_that_still_improves_is_not_stopped(study_folder, patience, stopped):
    study = open_study(study_folder, "patient", patience=patience)
    for values in CURVES:
        run_trial(study, values)
    assert run_trial(study, (0.1, 0.2, 0.19, 0.18)) == stopped


def test_the_paired_test_looks_at_clients_and_not_at_the_mean(study_folder):
    study = open_study(study_folder, "wilcoxon")
    run_trial(study, CURVES[0])
    noisy = [-0.3, 0.29, -0.2, 0.19, -0.1, 0.09, 0.05, -0.05]
    assert run_trial(study, [value - 0.01 for value in CURVES[0]], lambda value: [value + one for one in noisy]) is None
    assert run_trial(study, [value - 0.01 for value in CURVES[0]]) == 2, "each client a little worse"


@pytest.mark.parametrize(
    ("objective", "stopped"), [("val/local", False), ("val/global", True), ("harmonic(val/local, val/global)", True)]
)
def test_the_paired_test_compares_the_honest_clients_by_the_objective(study_folder, objective, stopped):
    settings = SweepSettings(trials=9, pruner="wilcoxon", grace_rounds=1, objective=objective)
    study = SweepStudy(study_folder, SPACE, settings, 2)
    for local, global_ in [(0.5, 0.6), (0.55, 0.3)]:
        scores = [
            evaluation(client, local + client / 64, 0.0, **{"val/global": global_ + client / 64}) for client in range(9)
        ]
        attacked = [9.9 if global_ < local else 0.0] * 3  # what attackers have does not count
        scores += [evaluation(9 + index, value, 0.0, **{"val/global": value}) for index, value in enumerate(attacked)]
        report = RoundReport.of(1, [0], [], {}, scores, 1.0, adversaries=[9, 10, 11])
        number, attackers = study.next_proposal().number, [[9, 10, 11]]
        figures = RoundFigures.of([[report]], study.objective, attackers)
        study.report(number, 1, objective_of(study.objective, [report], attackers), figures)
        if number == 0:
            study.complete(0, 0.5)
    assert study.should_stop(1, 1) == stopped


def test_what_the_paired_test_needs_is_on_disk(study_folder):
    run_trial(open_study(study_folder, "wilcoxon"), CURVES[0])
    assert run_trial(open_study(study_folder, "wilcoxon"), CURVES[1]) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pruner": "ahsa"}, "a.yaml: pruner: got 'ahsa', should be 'asha', 'median', 'patient', 'wilcoxon' or 'none'"),
        ({"patience": -1}, "a.yaml: patience: got -1, should be greater than or equal to 0"),
        (
            {"pruner": "wilcoxon", "space": {"partition.alpha": {"float": [0.1, 1.0]}}},
            "a.yaml: pruner: wilcoxon compares the same clients, so partition.alpha cannot be searched",
        ),
        (
            {"pruner": "wilcoxon", "objective": "val/server"},
            "a.yaml: pruner: wilcoxon compares clients, but val/server is one number of the server; take median",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(values, message):
    with pytest.raises(ConfigError) as caught:
        parse_sweep({"space": {"experts": {"int": [1, 4]}}, **values}, source="a.yaml")
    assert message in str(caught.value)


def test_rungs_wait_for_the_next_evaluated_round(study_folder):
    study = SweepStudy(study_folder, SPACE, SweepSettings(trials=9, grace_rounds=2), 10, every=4)
    stopped = []
    for value in (0.9, 0.1):
        number = study.next_proposal().number
        for round_index in (4, 8):
            study.report(number, round_index, value)
            stopped.append((number, round_index, study.should_stop(number, round_index)))
    assert stopped == [(0, 4, False), (0, 8, False), (1, 4, True), (1, 8, True)]
    assert not study.should_stop(1, 2)


def test_a_paired_test_leaves_out_clients_that_were_not_evaluated(study_folder):
    study = open_study(study_folder, "wilcoxon")
    assert run_trial(study, CURVES[0], lambda value: [None, *eight(value)]) is None
    assert run_trial(study, CURVES[2], lambda value: [*eight(value), None]) == 2


def test_clients_with_one_model_and_the_same_samples_are_one_pair(study_folder):
    study = open_study(study_folder, "wilcoxon")
    assert run_trial(study, CURVES[0], lambda value: [value] * 8) is None
    assert run_trial(study, CURVES[2], lambda value: [value] * 8) is None
