"""Records of a sweep's trials: the study's values, and the figures of each trial's result."""

from datetime import timedelta
from statistics import stdev

import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial

from promptfleet.search.folders import trial_folder
from promptfleet.search.objective import Objective
from promptfleet.search.records import trial_record, trial_summary
from promptfleet.search.spec import parse_sweep
from tests.tracking.values import make_result

SPEC = parse_sweep({"space": {"experts": {"int": [1, 2]}}, "federation": {"clients": 3}}, source="test")


@pytest.fixture
def trial():
    """Number -1, as Optuna has it outside a study: complete after three rounds."""
    return create_trial(
        state=TrialState.COMPLETE,
        value=0.5,
        params={"experts": 2},
        distributions={"experts": IntDistribution(1, 2)},
        intermediate_values={1: 0.3, 2: 0.4, 3: 0.5},
    )


def write_result(folder, trial, text):
    path = trial_folder(folder, trial.number) / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_figures_come_from_the_result_without_its_states(tmp_path, trial):
    result = make_result(SPEC.config(trial.params))
    write_result(tmp_path, trial, result.to_json())
    record = trial_record(trial, trial_summary(tmp_path, SPEC.config(trial.params), trial))
    assert (record.state, record.params, record.value, record.rounds) == ("complete", {"experts": 2}, 0.5, 3)
    assert (record.test_accuracy, record.seconds) == (result.test_accuracy, 12.0)
    accuracies = result.rounds[-1].client_val_accuracy
    began = trial.datetime_start - timedelta(seconds=5)
    record = trial_record(trial, result, objective=Objective(), began=began)
    assert record.standard_error == pytest.approx(stdev(accuracies) / len(accuracies) ** 0.5)
    assert (record.started_s, record.ended_s - record.started_s) == (5.0, (trial.duration).total_seconds())


def test_without_a_result_there_are_no_figures(tmp_path, trial, caplog):
    record = trial_record(trial, trial_summary(tmp_path, SPEC.config(trial.params), trial))
    assert (record.value, record.test_accuracy, record.seconds) == (0.5, None, 0.0)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("{", "result.json: damaged"),
        (make_result(SPEC.config({"experts": 1})).to_json(), "result of a federation with another configuration"),
    ],
    ids=["damaged", "another"],
)
def test_a_result_that_cannot_be_used_is_a_warning(tmp_path, trial, caplog, text, warning):
    write_result(tmp_path, trial, text)
    assert trial_summary(tmp_path, SPEC.config(trial.params), trial) is None
    assert warning in caplog.text


def test_a_trial_that_runs_has_no_value_yet(trial):
    trial.state = TrialState.RUNNING
    record = trial_record(trial, None)
    assert (record.state, record.value, record.rounds) == ("running", None, 3)
