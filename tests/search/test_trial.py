"""One step of a trial: what the study gets of a round, and a federation that learns nothing fails, for good."""

from types import SimpleNamespace

from ray import cloudpickle
from ray.tune.utils import flatten_dict

from promptfleet.federation.failures import NothingAccepted
from promptfleet.search.objective import Objective
from promptfleet.search.quantities import RoundFigures
from promptfleet.search.stage import NUMBER, STAGE
from promptfleet.search.trial import FederationTrial
from promptfleet.search.tune_adapters import RungScheduler
from tests.tracking.values import make_report


def test_a_step_reports_one_round_and_ends_with_the_last():
    trial = object.__new__(FederationTrial)
    trial._config, trial._objective, trial._adversaries = SimpleNamespace(rounds=2), Objective(), [[]]
    reports = [make_report(1), make_report(2)]
    trial._rounds = iter([[reports[:1]], [reports]])
    first, second = trial.step(), trial.step()
    assert [(one["round"], one["rounds"], one["done"]) for one in (first, second)] == [(1, 2, False), (2, 2, True)]
    assert first["val_accuracy"] == first["report"].honest_val_accuracy == make_report(1).honest_val_accuracy
    assert flatten_dict(first).keys() == first.keys(), "Tune keeps the history of each number of each trial"
    assert [one["figures"].quantities["rounds"] for one in (first, second)] == [1, 2]
    told = []
    study = SimpleNamespace(report=lambda *given: told.append(given), should_stop=lambda *_: False)
    config = {NUMBER: 7, STAGE: "trial"}
    scheduler = RungScheduler([SimpleNamespace(name="trial", study=study)])
    scheduler.on_trial_result(None, SimpleNamespace(config=config), flatten_dict(first))  # as Tune hands it on
    assert told == [(7, 1, first["val_accuracy"], RoundFigures.of([reports[:1]], Objective(), [[]]))]


def test_the_study_keeps_it_failed_with_the_reason(tmp_path):
    (tmp_path / "error.pkl").write_bytes(cloudpickle.dumps(SimpleNamespace(cause=NothingAccepted("no update"))))
    failed = {}
    study = SimpleNamespace(fail=lambda number, reason: failed.update({number: reason}))
    scheduler = RungScheduler([SimpleNamespace(name="trial", study=study)])
    config = {NUMBER: 7, STAGE: "trial"}
    scheduler.on_trial_error(None, SimpleNamespace(config=config, pickled_error_file=str(tmp_path / "error.pkl")))
    assert failed == {7: "no update"}
