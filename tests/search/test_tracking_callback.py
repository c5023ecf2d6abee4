"""Writes of the driver to MLflow for its trials, and their order."""

from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from promptfleet.search.folders import trial_folder
from promptfleet.search.space import IntRange
from promptfleet.search.spec import SweepSettings
from promptfleet.search.stage import Stage
from promptfleet.search.study import Proposal, SweepStudy
from promptfleet.search.tracking_callback import TrackTrials
from promptfleet.tracking.federation_run import FIGURES_TAG, TO_BE_DRAWN
from tests.tracking.values import make_config, make_report, make_result


class Writer:
    """Runs jobs on request, late ones last."""

    def __init__(self):
        self.jobs, self.late = [], []

    def submit(self, job, *arguments):
        self.jobs.append(lambda: job(*arguments))

    def submit_late(self, job, *arguments):
        self.late.append(lambda: job(*arguments))

    def work(self):
        while self.jobs or self.late:
            (self.jobs or self.late).pop(0)()


class Run:
    """Notes what is written."""

    def __init__(self):
        self.seen = []

    def log_rounds(self, reports):
        self.seen.append([report.round for report in reports])

    def end(self, result, status, *, reason, objective):
        self.seen.append(("end", result is not None, status, reason))
        self.objective = objective

    def draw(self, result, status, *, reason):
        self.seen.append(("draw", result is not None, status, reason))


@pytest.fixture
def tracking(tmp_path, monkeypatch):
    monkeypatch.setattr("promptfleet.search.tracking_callback.BATCH_S", 0.0)
    config = make_config(storage={"path": str(tmp_path)})
    runs = {}
    parent = SimpleNamespace(id="parent", child=lambda number, params, config: runs.setdefault(number, Run()))
    study = SweepStudy(tmp_path, {"experts": IntRange(0, 2)}, SweepSettings(trials=3), rounds=3)
    stage = Stage("trial", tmp_path, study, lambda params: config, parent, config.storage)
    writer = Writer()
    return SimpleNamespace(
        callback=TrackTrials([stage], writer), stage=stage, study=study, writer=writer, runs=runs, config=config
    )


def tell(tracking, number, *rounds, end=True):
    values = tracking.stage.trial(Proposal(number, {"experts": 1}, 0))
    last = {"round": rounds[-1], "rounds": 3, "val_accuracy": rounds[-1] / 10}
    trial = SimpleNamespace(config=values, last_result=last)
    for index in rounds:
        tracking.callback.on_trial_result(0, [], trial, {"report": make_report(index)})
    if end:
        tracking.callback.on_trial_complete(0, [], trial)


def test_rounds_that_wait_are_written_at_once_and_figures_after_all_runs_have_ended(tracking):
    tell(tracking, 0, 1, 2, 3)
    tell(tracking, 1, 1)
    tracking.writer.work()
    assert tracking.runs[0].seen == [[1, 2, 3], ("end", False, "FINISHED", None), ("draw", False, "FINISHED", None)]
    assert tracking.runs[1].seen == [[1], ("end", False, "KILLED", None), ("draw", False, "KILLED", None)]
    assert [tracking.runs[number].objective for number in (0, 1)] == [0.3, 0.1]
    kept = tracking.callback._runs, tracking.callback._waiting
    assert kept == ({}, {}), "a long sweep keeps no run in memory"
    tell(tracking, 2, 1, end=False)
    tracking.writer.work()
    tell(tracking, 2, 2, 3)
    tracking.writer.work()
    assert tracking.runs[2].seen[:3] == [[1], [2, 3], ("end", False, "FINISHED", None)]


def test_short_rounds_are_written_in_batches_of_seconds(tracking, monkeypatch):
    monkeypatch.setattr("promptfleet.search.tracking_callback.BATCH_S", 60.0)
    tell(tracking, 0, 1, end=False)  # the first batch
    tracking.writer.work()
    tell(tracking, 0, 2, end=False)
    tell(tracking, 1, 1, 2)
    tracking.writer.work()
    assert tracking.runs[0].seen == [[1]]
    assert tracking.runs[1].seen[:2] == [[1, 2], ("end", False, "KILLED", None)]
    tracking.callback.on_experiment_end([])
    tracking.writer.work()
    assert tracking.runs[0].seen == [[1], [2]]


def test_rounds_that_could_not_be_written_are_written_with_the_next_ones(tracking):
    tell(tracking, 0, 1, end=False)
    run = tracking.runs[0] = Run()
    run.log_rounds = lambda reports: 1 / 0
    with pytest.raises(ZeroDivisionError):
        tracking.writer.work()
    del run.log_rounds
    tell(tracking, 0, 2, end=False)
    tracking.writer.work()
    assert run.seen == [[1, 2]]


def test_a_resumed_sweep_writes_what_is_missing_figures_included(tracking, tmp_path):
    for _ in range(3):
        number = tracking.study.next_proposal().number
        tracking.study.complete(number, 0.5)
        result = make_result(tracking.config)
        folder = trial_folder(tmp_path, number)
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(result.to_json())
    ended = [{"trial": "0", FIGURES_TAG: "drawn"}, {"trial": "1", FIGURES_TAG: TO_BE_DRAWN}]
    tracking.callback.catch_up(SimpleNamespace(ended_children=lambda parent: ended))
    tracking.writer.work()
    assert sorted(tracking.runs) == [1, 2]
    assert tracking.runs[1].objective == 0.5
    assert tracking.runs[1].seen == [("end", False, "FINISHED", None), ("draw", True, "FINISHED", None)]
    assert {trial.state for trial in tracking.study.trials()} == {TrialState.COMPLETE}
