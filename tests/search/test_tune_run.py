"""Trials whose process dies, under Ray Tune itself: each is gone on with, and none is given up, lost or doubled."""

import io
import shutil
import signal
from types import SimpleNamespace

import pytest
import ray
from optuna.trial import TrialState

from promptfleet.config import FederationConfig
from promptfleet.errors import StorageError
from promptfleet.search import lost_results, tune_adapters, tune_run
from promptfleet.search.folders import trial_folder
from promptfleet.search.progress import SweepProgress
from promptfleet.search.space import IntRange
from promptfleet.search.spec import SweepSettings
from promptfleet.search.stage import Stage
from promptfleet.search.study import SweepStudy
from tests.mortal import ROUNDS, Mortal, NoShares, order

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]
ALL_ROUNDS = {1: 0.1, 2: 0.2, 3: 0.3}


@pytest.fixture
def said():
    return io.StringIO()


@pytest.fixture
def run(ray_session, monkeypatch, tmp_path, said):
    """Run stages of so many trials each, ``{"trial": 3}``; returns what was reported to their studies."""
    monkeypatch.setattr(tune_run, "FederationTrial", Mortal)
    monkeypatch.setattr(tune_run, "put_frozen", lambda *_, **__: ray.put("nothing"))
    monkeypatch.setattr(tune_run, "plan_seats", NoShares)
    monkeypatch.setattr(tune_run, "SweepProgress", lambda stages: SweepProgress(stages, said))
    store, writer = SimpleNamespace(ended_children=lambda parent: []), SimpleNamespace(submit=lambda *_: None)
    config = FederationConfig(rounds=ROUNDS)

    def run(concurrent=1, **trials):
        stages = []
        for name, budget in trials.items():
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            study = SweepStudy(folder, {"experts": IntRange(0, 9)}, SweepSettings(trials=budget), rounds=1)
            stages.append(Stage(name, folder, study, lambda params: config, SimpleNamespace(id=name), config.storage))
        on_ctrl_c = signal.getsignal(signal.SIGINT)
        tune_run.run_trials(stages, tmp_path, None, [], store, writer, concurrent=concurrent)
        assert signal.getsignal(signal.SIGINT) is on_ctrl_c, "figures are drawn after this"
        return {stage.name: [(t.state, t.intermediate_values) for t in stage.study.trials()] for stage in stages}

    return run


def test_killed_when_it_is_set_up_reset_or_at_work_it_goes_on(run, tmp_path, said):
    order(tmp_path, "trial", 0, "begin")
    order(tmp_path, "trial", 1, "begin")  # when the process of trial 0 is reset for it
    order(tmp_path, "trial", 2, "begin", "raise")
    order(tmp_path, "trial", 2, 2)
    assert run(trial=3) == {"trial": [(TrialState.COMPLETE, ALL_ROUNDS)] * 3}
    assert said.getvalue().count("; it starts again after its last round") == 4
    assert "FAILED" not in said.getvalue()


def test_a_process_that_dies_while_it_waits_for_its_next_trial(run, tmp_path, said):
    order(tmp_path, "one", 0, 1, "wait")
    order(tmp_path, "one", 0, 3, "kill soon")  # it is kept for the second stage, which waits for trial 1
    order(tmp_path, "one", 1, 3, "late")
    done = [(TrialState.COMPLETE, ALL_ROUNDS)] * 2
    assert run(concurrent=2, one=2, two=2) == {"one": done, "two": done}
    assert said.getvalue().count("two   0 failed") == 1


def test_without_a_new_round_it_is_given_up_at_last(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tune_adapters, "MAX_FAILURES", 1)
    order(tmp_path, "trial", 0, 2, times=2)
    order(tmp_path, "trial", 1, 2)
    order(tmp_path, "trial", 1, 3)
    (state, rounds), other = run(trial=2)["trial"]
    assert (state, rounds) == (TrialState.FAIL, {1: 0.1})
    assert other == (TrialState.COMPLETE, ALL_ROUNDS)


def test_with_a_client_that_always_raises_it_is_given_up_at_once(run, tmp_path, said):
    order(tmp_path, "trial", 0, 2, "client fails")
    (state, rounds), other = run(trial=2)["trial"]
    assert (state, rounds) == (TrialState.FAIL, {1: 0.1})
    assert other == (TrialState.COMPLETE, ALL_ROUNDS)
    assert "starts again" not in said.getvalue()
    study = SweepStudy(tmp_path / "trial", {"experts": IntRange(0, 9)}, SweepSettings(trials=2), rounds=1)
    assert study.trials()[0].user_attrs["error"] == "train: client 1: raised ValueError, 4 times in a row"


@pytest.mark.parametrize("moment", ["begin", 2])
def test_a_disk_that_refuses_ends_the_sweep_and_no_trial(run, tmp_path, moment):
    order(tmp_path, "trial", 1, moment, "disk refuses")
    with pytest.raises(StorageError, match=r"^round-000001\.safetensors: cannot be read \(Input/output error\)$"):
        run(trial=2)
    study = SweepStudy(tmp_path / "trial", {"experts": IntRange(0, 9)}, SweepSettings(trials=2), rounds=1)
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE, TrialState.RUNNING]


def test_results_that_are_gone_are_brought_back_and_the_study_stays(run, tmp_path, monkeypatch, said):
    def summary(folder, config, trial, seeds=1):
        path = trial_folder(folder, trial.number) / "rounds"
        return path.read_text() if path.exists() else None

    monkeypatch.setattr(lost_results, "trial_summaries", lambda *given, **options: [summary(*given, **options)])
    done = {"trial": [(TrialState.COMPLETE, ALL_ROUNDS)] * 3}
    assert run(trial=3) == done
    shutil.rmtree(trial_folder(tmp_path / "trial", 1))
    order(tmp_path, "trial", 1, 2)  # and its process dies meanwhile
    assert run(trial=3) == done
    assert summary(tmp_path / "trial", None, SimpleNamespace(number=1)) == "3"
    assert "3/3 done, 0s left" in said.getvalue().splitlines()[-1]
    before = len(said.getvalue())
    assert run(trial=3) == done
    assert len(said.getvalue()) == before
