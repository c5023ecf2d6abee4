"""A comparison gets further methods and seeds: nothing that is done runs again, and nothing else changes."""

import pytest
import yaml

from promptfleet.comparison.growth import grown
from promptfleet.comparison.reading import read_comparison
from promptfleet.comparison.studies import comparison_study
from promptfleet.errors import ConfigError
from promptfleet.search.folders import trial_folder
from promptfleet.search.rebuild import rebuild_study
from promptfleet.search.space import Choice
from tests.comparison.values import make_summary

BEGUN = read_comparison(None, ["clients=4"], methods=("promptfl", "coop"), seeds=(0, 1))


def run_all(study, folder):
    """Complete all trials that are left, and return their points."""
    points = []
    while (proposal := study.next_proposal()) is not None:
        method, seed = proposal.params["method"], proposal.params["seed"]
        study.report(proposal.number, 10, 0.5 + 0.1 * seed)
        study.complete(proposal.number, 0.5 + 0.1 * seed)
        result = trial_folder(folder, proposal.number) / "result.json"
        result.parent.mkdir(parents=True)
        result.write_text(make_summary([0.5, 0.5, 0.5], method=method, seed=seed).to_json())
        points.append((seed, method))
    return points


def rows(study):
    return [(one.number, one.state, one.params, one.value, one.intermediate_values) for one in study.trials()]


@pytest.mark.slow
def test_only_what_is_missing_is_run_and_the_whole_is_that_of_a_comparison_begun_with_all(tmp_path):
    study = comparison_study(BEGUN, tmp_path)
    assert run_all(study, tmp_path) == [(0, "promptfl"), (0, "coop"), (1, "promptfl"), (1, "coop")]
    before = rows(study)
    spec = grown(BEGUN, methods="+fedprox", seeds="0,1,2", assignments=["methods.fedprox.mu=0.5"])
    assert spec == read_comparison(
        None, ["clients=4", "methods.fedprox.mu=0.5"], methods=("promptfl", "coop", "fedprox"), seeds=(0, 1, 2)
    )
    larger = comparison_study(spec, tmp_path)
    assert rows(larger) == before
    assert not larger.is_over()
    added = [(0, "fedprox"), (1, "fedprox"), (2, "promptfl"), (2, "coop"), (2, "fedprox")]
    assert run_all(larger, tmp_path) == added
    assert larger.is_over()
    assert comparison_study(spec, tmp_path).is_over()

    trial_folder(tmp_path, 1).joinpath("result.json").unlink()
    (tmp_path / "study.db").unlink()
    space = {"seed": Choice(spec.seeds), "method": Choice(spec.methods)}
    rebuilt = rebuild_study(
        *(tmp_path, lambda place: comparison_study(spec, place), space),
        lambda params: make_config(params["method"], params["seed"]),
    )
    points = [(one.params["seed"], one.params["method"]) for one in rebuilt.trials()]
    assert points == [(0, "promptfl"), (0, "coop"), (1, "promptfl"), (1, "coop"), *added], "no point is there twice"


def make_config(method, seed):
    from promptfleet.federation.settings import federation_config

    return federation_config({"clients": 3, "rounds": 3, "method": method, "seed": seed})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": "2,3"}, "--seeds 2,3: the comparison has 0, 1 as well, .*; write --seeds 0,1,2,3"),
        ({"methods": "coop"}, "the comparison has promptfl as well"),
        ({"methods": "+coop"}, r"--methods \+coop: coop is compared already"),
        ({"methods": "+fedprx"}, "did you mean 'fedprox'"),
        (
            {"seeds": "+2", "assignments": ["clients=5", "batch_size=3"]},
            r"keeps its configuration; these keys differ: batch_size \(32, now 3\), clients \(4, now 5\)$",
        ),
        ({"assignments": ["methods.coop.prompt_lr=0.5"]}, r"these keys differ: prompt_lr \(0.02, now 0.5\)"),
        ({"tune": "tune.yaml", "methods": "+fedprox"}, "--tune: the methods of this comparison were not tuned"),
        ({"trials": 3}, "--trials: belongs to the tuning"),
    ],
)
def test_nothing_that_is_compared_changes(options, message):
    with pytest.raises(ConfigError, match=message):
        grown(BEGUN, **options)


def test_a_tuned_comparison_grows_by_tuned_methods(tmp_path):
    file = tmp_path / "tune.yaml"
    space = {"prompt_lr": {"float": [0.01, 0.1]}}
    values = {"trials": 4, "federation": {"seed": 9}, "methods": {"coop": space, "fedprox": space}}
    file.write_text(yaml.safe_dump(values))
    begun = read_comparison(None, methods=("coop",), seeds=(0,), tune=file)
    with pytest.raises(ConfigError, match="were tuned; give --tune FILE to tune more"):
        grown(begun, methods="+fedprox")
    with pytest.raises(ConfigError, match="coop was tuned on the clients of seed 9; leave 9 out"):
        grown(begun, seeds="+9")
    spec = grown(begun, methods="+fedprox", tune=file)
    assert (list(spec.tuning), spec.tuning["coop"]) == (["coop", "fedprox"], begun.tuning["coop"])
    file.write_text(yaml.safe_dump({**values, "trials": 5}))
    with pytest.raises(ConfigError, match=r"these keys differ: tuning.trials \(4, now 5\)"):
        grown(begun, methods="+fedprox", tune=file)
