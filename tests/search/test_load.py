"""Sweeps that are read from disk, and the files that they leave there."""

import pandas
import pytest

import promptfleet
from promptfleet import StorageConfig, load_sweep
from promptfleet.comparison.reading import read_comparison
from promptfleet.errors import ConfigError
from promptfleet.federation.settings import read_federation_config
from promptfleet.search.final_stage import final_space, final_stage
from promptfleet.search.folders import SWEEPS, trial_folder
from promptfleet.search.outcome_files import write_outcome
from promptfleet.search.quantities import RoundFigures
from promptfleet.search.spec import parse_sweep
from promptfleet.search.sweep import open_study
from promptfleet.search.trials_frame import FORMATS, export_trials
from tests.tracking.values import make_result

VALUES = {
    "trials": 3,
    "federation": {"method": "pfedmoap", "clients": 3, "rounds": 3, "seed": 5, "prompt_length": 4},
    "space": {"prompt_lr": {"float": [0.01, 0.1]}, "experts": {"int": [1, 2]}},
    "sampler": "random",
}


def write_result(spec, folder, params, number, rounds=3):
    place = trial_folder(folder, number)
    place.mkdir(parents=True)
    config = spec.config(params)
    (place / "result.json").write_text(make_result(config, rounds=rounds).to_json())


@pytest.fixture
def storage(tmp_path):
    return StorageConfig(path=str(tmp_path / "results"))


def swept(storage, accuracies=(0.5, 0.7, 0.6), **settings):
    """Return the specification, the study and the folder of a sweep of three trials with these values."""
    values = {**VALUES, **settings, "federation": {**VALUES["federation"], "storage": {"path": storage.path}}}
    spec = parse_sweep(values, source="test")
    with SWEEPS.create(spec.to_dict(), storage, name="gating", default_name="x") as folder:
        study = open_study(spec, folder)
        for value in accuracies:
            proposal = study.next_proposal()
            study.report(proposal.number, 3, value)
            study.complete(proposal.number, value)
            write_result(spec, folder, proposal.params, proposal.number)
    return spec, study, folder


def test_a_sweep_has_its_trials_as_a_table_and_the_best_one(storage, tmp_path):
    _, study, _ = swept(storage)
    sweep = load_sweep("gating", storage=storage)
    assert (sweep.best.number, sweep.best.value, sweep.front) == (1, 0.7, [])
    assert sweep.best.params == study.trials()[1].params
    assert sweep.trials["value"].tolist() == [0.5, 0.7, 0.6]
    assert sweep.trials["prompt_lr"].tolist() == [trial.params["prompt_lr"] for trial in study.trials()]
    assert sweep.trials["test_accuracy"].notna().all()
    for kind in FORMATS:
        export_trials(sweep.trials, tmp_path / kind, kind)
    assert pandas.read_parquet(tmp_path / "parquet").equals(sweep.trials)
    assert pandas.read_csv(tmp_path / "csv", index_col="number")["value"].tolist() == [0.5, 0.7, 0.6]
    assert pandas.read_json(tmp_path / "json").set_index("number")["state"].tolist() == ["complete"] * 3


def test_its_files_are_the_table_the_best_values_and_a_configuration_per_trial(storage):
    spec, _, folder = swept(storage)
    sweep = load_sweep("gating", storage=storage)
    write_outcome(spec, folder, sweep.records, sweep.best)
    assert pandas.read_csv(folder / "trials.csv", index_col="number")["value"].tolist() == [0.5, 0.7, 0.6]
    assert read_federation_config(folder / "best.yaml") == spec.config(sweep.best.params)
    for record in sweep.records:
        config = read_federation_config(trial_folder(folder, record.number) / "config.yaml")
        assert config == spec.config(record.params)


def test_ties_of_the_best_are_said_to_be_ties(storage):
    spec, _, folder = swept(storage, accuracies=(0.5, 0.7, 0.7))
    sweep = load_sweep("gating", storage=storage)
    assert (sweep.best.number, sweep.ties) == (1, [2])
    write_outcome(spec, folder, sweep.records, sweep.best, sweep.ties)
    assert (folder / "best.yaml").read_text().splitlines()[:2] == [
        "# trial 1 of sweep gating: val/local 0.7000",
        "# tied with trial 2, which has the same value",
    ]
    assert read_federation_config(folder / "best.yaml") == spec.config(sweep.best.params)


def test_a_comparison_takes_the_best_values_as_they_are(storage):
    spec, _, folder = swept(storage)
    sweep = load_sweep("gating", storage=storage)
    write_outcome(spec, folder, sweep.records, sweep.best)
    comparison = read_comparison(folder / "best.yaml", methods=("pfedmoap", "promptfl"), seeds=(0, 1))
    config = comparison.config("pfedmoap", 5)
    assert config == spec.config(sweep.best.params)
    assert comparison.config("promptfl", 1).prompt_lr == sweep.best.params["prompt_lr"]


def test_the_winner_of_the_finalists_is_the_best(storage):
    spec, study, folder = swept(storage, finalists={"trials": 2, "seeds": [7, 8]})
    assert load_sweep("gating", storage=storage).best.number == 1
    stage = final_stage(spec, folder, study, final_space(spec, study))
    while proposal := stage.study.next_proposal():
        place = trial_folder(stage.folder, proposal.number)
        place.mkdir(parents=True)
        result = make_result(stage.config(proposal.params), rounds=3 if proposal.params["trial"] == 2 else 2)
        (place / "result.json").write_text(result.to_json())
        stage.study.report(proposal.number, 3, 0.5)
        stage.study.complete(proposal.number, 0.5)
    assert load_sweep("gating", storage=storage).best.number == 2


def test_of_several_objectives_there_is_a_front_and_no_best_trial(storage):
    values = {**VALUES, "objectives": {"val/local": "max", "bytes_up": "min"}, "pruner": "none"}
    spec = parse_sweep(
        {**values, "federation": {**values["federation"], "storage": {"path": storage.path}}}, source="test"
    )
    with SWEEPS.create(spec.to_dict(), storage, name="two", default_name="x") as folder:
        study = open_study(spec, folder)
        for value, uploaded in ((0.5, 10.0), (0.7, 30.0), (0.6, 40.0)):
            proposal = study.next_proposal()
            study.report(proposal.number, 3, value, RoundFigures({"bytes_up": uploaded}, [value]))
            study.complete(proposal.number, value)
    sweep = load_sweep("two", storage=storage)
    assert (sweep.best, sorted(sweep.front)) == (None, [0, 1])
    write_outcome(spec, folder, sweep.records, sweep.best)
    assert not (folder / "best.yaml").exists()


def test_a_name_without_a_sweep_is_said_with_those_there_are(storage):
    swept(storage)
    with pytest.raises(ConfigError, match=r"^gatin: there is no such sweep .*there are: gating"):
        promptfleet.load_sweep("gatin", storage=storage)
