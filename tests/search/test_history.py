"""A warm start: what is taken of earlier searches, what is not and why, and that a sampler learns from it."""

import shutil

import pytest
import yaml
from optuna.trial import TrialState

from promptfleet.errors import ConfigError
from promptfleet.search.history import collect_history, read_history, write_history
from promptfleet.search.spec import parse_sweep
from promptfleet.search.study import SweepStudy

EARLIER = {
    "trials": 6,
    "federation": {"clients": 6, "rounds": 3},
    "space": {"experts": {"int": [1, 5]}, "prompt_lr": {"float": [0.01, 1.0]}},
}


@pytest.fixture
def earlier(tmp_path, empty):
    """A search of six trials in the storage: five complete, one stopped early; accuracy is the prompt's rate."""
    spec = parse_sweep(EARLIER, [f"storage.path={tmp_path}"], source="earlier")
    folder = shutil.copytree(empty, tmp_path / "sweeps" / "earlier")
    (folder / "sweep.yaml").write_text(yaml.safe_dump(spec.to_dict()))
    study = SweepStudy(folder, spec.space, spec.settings, 3)
    for _ in range(5):
        proposal = study.next_proposal()
        study.report(proposal.number, 3, proposal.params["prompt_lr"])
        study.complete(proposal.number, proposal.params["prompt_lr"])
    number = study.next_proposal().number
    study.report(number, 1, 0.3)
    study.prune(number)
    return study.trials()


def new(tmp_path, assignments=(), **changes):
    values = {**EARLIER, "start_from": ["earlier"], **changes}
    return parse_sweep(values, [f"storage.path={tmp_path}", *assignments], source="new")


def rows(trials):
    return [(trial.state, trial.params, trial.values, trial.intermediate_values) for trial in trials]


def test_trials_of_the_same_federation_are_taken_and_kept(tmp_path, earlier, caplog):
    caplog.set_level("INFO")
    spec = new(tmp_path)
    history = collect_history(spec)
    assert rows(history) == rows(earlier)
    assert caplog.messages == ["start_from earlier: 6 of 6 trials are taken"]
    write_history(tmp_path, history)
    assert rows(read_history(tmp_path, spec.space)) == rows(earlier)
    assert read_history(tmp_path / "sweeps", spec.space) == []
    by_path = new(tmp_path, start_from=[str(tmp_path / "sweeps" / "earlier" / "study.db")])
    assert rows(collect_history(by_path)) == rows(earlier)


def test_only_trials_in_the_space_are_taken_and_the_others_are_counted(tmp_path, earlier, caplog):
    caplog.set_level("INFO")
    middle = sorted(trial.params["prompt_lr"] for trial in earlier)[2]
    spec = new(tmp_path, space={**EARLIER["space"], "prompt_lr": {"float": [0.01, middle]}})
    assert len(collect_history(spec)) == 3
    assert caplog.messages == [
        "start_from earlier: 3 of 6 trials are taken",
        "start_from: 3 not taken: prompt_lr is outside of the space",
    ]


def test_a_key_that_is_new_in_the_space_has_the_value_of_the_earlier_federation(tmp_path, earlier):
    spec = new(tmp_path, space={**EARLIER["space"], "local_epochs": {"int": [1, 20]}})
    assert {trial.params["local_epochs"] for trial in collect_history(spec)} == {spec.config({}).local_epochs}


def test_another_federation_is_refused_but_for_the_keys_that_are_named(tmp_path, earlier, caplog):
    caplog.set_level("INFO")
    spec = new(tmp_path, ["seed=3"])
    with pytest.raises(ConfigError) as caught:
        collect_history(spec)
    assert str(caught.value) == "start_from: no trial of earlier can be used: its federation has another seed"
    assert caplog.messages == [], "it is one line"
    assert len(collect_history(new(tmp_path, ["seed=3"], start_from_ignores=["seed"]))) == 6
    assert len(collect_history(new(tmp_path, ["runtime.backend=local"]))) == 6, "where it ran is of no matter"


def test_a_search_learns_from_its_history(tmp_path, earlier, study_folder):
    spec = new(tmp_path, startup_trials=4)
    history = collect_history(spec)
    fresh = SweepStudy(study_folder, spec.space, spec.settings, 3)
    cold = fresh.next_proposal().params
    warm = SweepStudy(tmp_path / "sweeps" / "earlier", spec.space, spec.settings, 3, history=history)
    assert warm._propose([]).params != cold
    assert [trial.state for trial in history] == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("erlier", "start_from erlier: there is no such sweep (did you mean 'earlier'?)"),
        (
            "nowhere/study.db",
            "start_from: nowhere/study.db: there is no such study; give the study.db of a",
        ),
    ],
)
def test_a_study_that_is_not_there_is_one_line(tmp_path, earlier, source, message):
    with pytest.raises(ConfigError) as caught:
        collect_history(new(tmp_path, start_from=[source]))
    assert message in str(caught.value)


def test_a_damaged_history_is_one_line(tmp_path):
    (tmp_path / "history.json").write_text('[{"state": "DONE"}]')
    with pytest.raises(ConfigError, match=r"history.json: is damaged \(KeyError"):
        read_history(tmp_path, {})
