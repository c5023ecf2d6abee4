"""Trials whose results are gone: they come to the ends they had, whatever the study would say now."""

import inspect
import re
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from promptfleet.config import FederationConfig, StorageConfig
from promptfleet.search import lost_results, tune_adapters
from promptfleet.search.folders import trial_folder
from promptfleet.search.lost_results import StudyWithLost, bring_results, with_lost_results
from promptfleet.search.space import IntRange
from promptfleet.search.spec import SweepSettings
from promptfleet.search.stage import Stage
from promptfleet.search.study import SweepStudy
from tests.tracking.values import make_config, make_result

LOST = {1, 2}


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Four of five trials have ended: complete, complete and lost, stopped after round 1 and lost, failed."""
    study = SweepStudy(tmp_path, {"experts": IntRange(0, 9)}, SweepSettings(trials=5, grace_rounds=1), rounds=4)
    for number, values in enumerate([(0.5, 0.6, 0.7, 0.8), (0.6, 0.7, 0.8, 0.9), (0.1,), (0.3,)]):
        assert study.next_proposal().number == number
        for round_index, value in enumerate(values, start=1):
            study.report(number, round_index, value)
    study.complete(0, 0.8)
    study.complete(1, 0.9)
    study.prune(2)
    study.fail(3, "a client raised")
    found = lambda _, __, trial, seeds: [None if trial.number in LOST else "there"]  # noqa: E731
    monkeypatch.setattr(lost_results, "trial_summaries", found)
    config = FederationConfig()
    return Stage("trial", tmp_path, study, lambda params: config, SimpleNamespace(id="parent"), config.storage)


def test_it_notes_and_answers_as_the_study_does(stage):
    """Tune's searcher calls all of these of any study."""
    study = with_lost_results(stage).study
    study.note(1, {"val/local": 0.9})
    assert study.why_failed(3) == "a client raised"
    public = {name for name in vars(StudyWithLost) if not name.startswith("_")}
    used = set(re.findall(r"\bstudy\.(\w+)\(", inspect.getsource(tune_adapters)))
    assert used <= public


def test_lost_trials_are_handed_out_before_new_ones_and_come_to_their_old_ends(stage, caplog):
    caplog.set_level("INFO")
    before = [(trial.state, trial.value) for trial in stage.study.trials()]
    study = with_lost_results(stage).study
    assert [message.partition(":")[0] for message in caplog.messages] == ["trial 1", "trial 2"]
    assert study.trials_left() == stage.study.trials_left() + 2 == 3
    assert [study.has_ended(number) for number in range(4)] == [True, False, False, True]

    first, second, new = (study.next_proposal() for _ in range(3))
    assert [(first.number, first.settled_rounds), (second.number, second.settled_rounds)] == [(1, 3), (2, 0)]
    assert first.params == stage.study.trials()[1].params
    assert new.number == 4
    study.take_back(1)
    assert study.next_proposal().number == 1

    assert not any(study.should_stop(1, round_index) for round_index in range(1, 5))
    assert study.should_stop(2, 1)
    study.complete(1, 0.9)
    study.prune(2)
    assert study.trials_left() == 1
    assert [(trial.state, trial.value) for trial in study.trials()[:4]] == before


def test_one_that_cannot_be_brought_back_stays_what_it_was(stage, caplog):
    study = with_lost_results(stage).study
    study.fail(1, "its client raises now")
    assert study.has_ended(1)
    assert study.trials()[1].state == TrialState.COMPLETE
    assert "trial 1: its result could not be restored (its client raises now)" in caplog.text


def test_where_nothing_is_lost_the_stage_stays_as_it_is(stage, monkeypatch):
    monkeypatch.setattr(lost_results, "trial_summaries", lambda *_, **__: ["there"])
    assert with_lost_results(stage) is stage


def test_a_result_that_another_node_wrote_is_brought_from_the_address(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage, config = StorageConfig(path=(tmp_path / "there").as_uri()), make_config()
    folder = storage.folder / "sweeps" / "a"
    folder.mkdir(parents=True)
    study = SweepStudy(folder, {"experts": IntRange(0, 9)}, SweepSettings(trials=2), rounds=3)
    study.complete(study.next_proposal().number, 0.5)
    study.next_proposal()  # and runs
    for number in (0, 1):
        place = trial_folder(tmp_path / "there" / "sweeps" / "a", number)
        place.mkdir(parents=True)
        (place / "result.json").write_text(make_result(config).to_json())
    bring_results(Stage("trial", folder, study, lambda params: config, None, storage))
    assert [(trial_folder(folder, number) / "result.json").exists() for number in (0, 1)] == [True, False]
