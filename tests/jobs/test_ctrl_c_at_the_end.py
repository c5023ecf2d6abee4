"""Jobs that Ctrl-C ends while MLflow's figures are drawn: with their summary, and the status of an interrupted job."""

import time
from contextlib import nullcontext

import pytest

from promptfleet.cluster import session
from promptfleet.cluster.session import local_nodes
from promptfleet.comparison import files
from promptfleet.comparison import run as comparison_run
from promptfleet.comparison.report import make_report
from promptfleet.comparison.run import ComparisonOutcome
from promptfleet.federation import prepare
from promptfleet.federation import run as federation_run
from promptfleet.search import sweep
from promptfleet.search.sweep import SweepOutcome
from promptfleet.tracking.background import BackgroundFederationRun
from promptfleet.trial_records import TrialRecord
from tests.comparison.values import make_summary
from tests.tracking.values import make_result


@pytest.fixture
def no_ray(monkeypatch):
    monkeypatch.setattr(session, "ray_with", lambda prepare, *_, **__: nullcontext((prepare(), local_nodes())))


def test_a_search_ends_with_its_summary(run_here, no_ray, monkeypatch, tmp_path):
    record = TrialRecord(0, "complete", {"experts": 1}, 0.9, 3, 0.8, 1.0)
    outcome = SweepOutcome([record], record, make_result(), False, "ui", None, undrawn=2, drawing_interrupted=True)
    monkeypatch.setattr(prepare, "prepare", lambda *_: None)
    monkeypatch.setattr(sweep, "run_sweep", lambda *_: outcome)
    (tmp_path / "a.yaml").write_text("space: {experts: {int: [0, 2]}}\nfederation: {clients: 3}")
    status, out, _ = run_here("tune.py", "--search", "a.yaml")
    assert status == 130
    assert "validation accuracy 0.600, chosen by it" in out
    assert out.endswith("the figures of 2 of its runs; draw them with: python jobs/tune.py --resume a\n")


def test_a_comparison_ends_with_its_tables(run_here, no_ray, monkeypatch):
    results = {(method, 0): make_summary([0.5, 0.6, 0.7], method=method) for method in ("coop", "promptfl")}
    report = make_report(results, failed=[], tuned={})
    outcome = ComparisonOutcome(report, True, "ui", None, undrawn=2)
    monkeypatch.setattr(prepare, "prepare", lambda *_: None)
    monkeypatch.setattr(files, "write_figures", lambda *_: None)
    monkeypatch.setattr(comparison_run, "run_comparison", lambda *_: outcome)
    status, out, _ = run_here("compare.py", "--methods", "coop,promptfl", "--seeds", "0", "--set", "clients=3")
    assert status == 130
    assert "60.0" in out
    assert out.endswith("the figures of 2 of its runs; draw them with: python jobs/compare.py --resume digits\n")


@pytest.mark.parametrize(("times", "missing"), [(1, False), (2, True)])
def test_a_federation_ends_with_its_result(run_here, monkeypatch, ctrl_c, times, missing):
    def finish(self, result):
        self._writer._closed.wait(30)
        for _ in range(times):
            time.sleep(0.05)  # until the job waits
            ctrl_c()
        time.sleep(0.3 * (times - 1))  # a write that takes long
        self._is_complete = True

    monkeypatch.setattr(federation_run, "run_federation", lambda config, **_: make_result(config))
    monkeypatch.setattr(BackgroundFederationRun, "_finish", finish)
    status, out, _ = run_here("train.py", "--set", "clients=3", "rounds=3", "experts=2")
    assert status == 130
    assert "validation accuracy  0.600" in out
    assert ("MLflow lacks it (interrupted); write the missing part with: python jobs/train.py --res" in out) == missing
