"""One step of a trial: a federation that learns nothing fails, for good."""

from types import SimpleNamespace

import pytest
from ray import cloudpickle

from promptfleet.federation.failures import NothingAccepted
from promptfleet.search.stage import NUMBER, STAGE
from promptfleet.search.trial import FederationTrial
from promptfleet.search.tune_adapters import RungScheduler
from tests.federation.test_reports import REJECTED


def trial_after(reports, rounds):
    """A trial whose federation has these rounds behind it, of which the study knows all but the last."""
    trial = object.__new__(FederationTrial)
    trial._federation = SimpleNamespace(reports=reports, rounds_done=len(reports))
    trial._config, trial._told = SimpleNamespace(rounds=rounds), len(reports) - 1
    return trial


def test_it_fails_where_every_update_is_rejected():
    with pytest.raises(NothingAccepted, match="no update was accepted in 3 rounds, the last time since client 1's"):
        trial_after([REJECTED] * 3, 5).step()


def test_the_study_keeps_it_failed_with_the_reason(tmp_path):
    (tmp_path / "error.pkl").write_bytes(cloudpickle.dumps(SimpleNamespace(cause=NothingAccepted("no update"))))
    failed = {}
    study = SimpleNamespace(fail=lambda number, reason: failed.update({number: reason}))
    scheduler = RungScheduler([SimpleNamespace(name="trial", study=study)])
    config = {NUMBER: 7, STAGE: "trial"}
    scheduler.on_trial_error(None, SimpleNamespace(config=config, pickled_error_file=str(tmp_path / "error.pkl")))
    assert failed == {7: "no update"}
