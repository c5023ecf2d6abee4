"""The end of a search: its files are there before MLflow's last figures, and Ctrl-C leaves out nothing but those."""

import time
from types import SimpleNamespace

import pytest

from promptfleet.cluster.nodes import Node
from promptfleet.search import sweep, tune_run
from promptfleet.search.spec import parse_sweep
from promptfleet.search.summary import describe_outcome
from promptfleet.search.sweep import run_sweep
from tests.search.made_up_study import completing_trials


@pytest.fixture
def run(monkeypatch, study_folder):
    """Run a search of two made-up trials; ``draw(writer)`` is the figure of the first one."""
    values = {"trials": 2, "federation": {"clients": 3, "rounds": 3}, "space": {"experts": {"int": [0, 2]}}}
    spec = parse_sweep(values, source="a.yaml")

    def run(draw):
        monkeypatch.setattr(tune_run, "run_trials", completing_trials(draw))
        monkeypatch.setattr(sweep.TrackingStore, "open", lambda _: SimpleNamespace(ui_hint=lambda view: "mlflow ui"))
        parent = SimpleNamespace(view="sweep-a", finish=lambda *_, **__: [])
        monkeypatch.setattr(sweep.SweepRun, "start", lambda *_, **__: parent)
        outcome = run_sweep(spec, study_folder, None, [Node(cpus=4.0, gpus=0.0)])
        return outcome, describe_outcome(spec, study_folder, outcome)

    return run


def test_ctrl_c_while_figures_are_drawn_still_ends_with_files_and_a_summary(run, study_folder, ctrl_c):
    there = []

    def draw(writer):
        writer._closed.wait(30)
        there.extend(path.name for path in study_folder.glob("*.*") if path.suffix in (".yaml", ".csv"))
        time.sleep(0.05)  # until the job waits
        ctrl_c()
        writer._hurried.wait(30)

    outcome, text = run(draw)
    assert sorted(there) == ["best.yaml", "trials.csv"]
    assert (outcome.best.number, outcome.interrupted, outcome.drawing_interrupted) == (1, False, True)
    assert "best trial: 1  experts=" in text
    resume = "python jobs/tune.py --resume study"
    assert text.splitlines()[-1] == f"MLflow lacks the figures of 1 of its runs; draw them with: {resume}"


def test_with_all_figures_nothing_is_missing(run):
    outcome, text = run(lambda writer: None)
    assert (outcome.undrawn, outcome.drawing_interrupted) == (0, False)
    assert "MLflow lacks" not in text
