"""The end of a comparison: its tables are there before MLflow's last figures, which Ctrl-C leaves out."""

import time
from types import SimpleNamespace

from promptfleet.cluster.nodes import Node
from promptfleet.comparison import run as run_module
from promptfleet.comparison.reading import read_comparison
from promptfleet.comparison.run import run_comparison
from promptfleet.comparison.summary import describe_outcome
from promptfleet.search import tune_run
from tests.search.made_up_study import completing_trials


def test_ctrl_c_while_figures_are_drawn_still_ends_with_tables_and_a_summary(tmp_path, monkeypatch, ctrl_c):
    spec = read_comparison(None, ["clients=3", "rounds=3", "experts=2"], methods=("pfedmoap", "promptfl"), seeds=(0,))
    folder, out, there = tmp_path / "digits", tmp_path / "out", []
    folder.mkdir()

    def draw(writer):
        writer._closed.wait(30)
        there.extend((place / "comparison.md").exists() for place in (folder, out))
        time.sleep(0.05)  # until the job waits
        ctrl_c()
        writer._hurried.wait(30)

    monkeypatch.setattr(tune_run, "run_trials", completing_trials(draw))
    monkeypatch.setattr(run_module.TrackingStore, "open", lambda _: SimpleNamespace(ui_hint=lambda view: "mlflow ui"))
    monkeypatch.setattr(run_module.ComparisonRun, "start", lambda *_, **__: SimpleNamespace(finish=lambda *_, **__: []))
    outcome = run_comparison(spec, folder, None, [Node(cpus=4.0, gpus=0.0)], out=out)
    assert there == [True, True]
    assert (outcome.report is None, outcome.interrupted, outcome.undrawn) == (False, True, 1)
    last = describe_outcome(spec, folder, out, outcome).splitlines()[-1]
    assert last == ("MLflow lacks the figures of 1 of its runs; draw them with: python jobs/compare.py --resume digits")
