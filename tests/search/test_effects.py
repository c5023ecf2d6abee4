"""Keys of a new search that could change nothing: refused, at the last value that has no effect."""

import re

import pytest

from promptfleet.errors import ConfigError
from promptfleet.search.effects import check_effects
from promptfleet.search.spec import parse_sweep, read_sweep
from promptfleet.yaml_files import dump_yaml

GRID = {"sampler": "grid", "space": {"experts": {"choice": [1, 2]}}}
EVERY_4 = {"rounds": 10, "evaluation": {"every": 4}}


def search(values):
    federation = {"rounds": 10, "clients": 6, **values.get("federation", {})}
    return {"space": {"experts": {"int": [1, 2]}}, **values, "federation": federation}


@pytest.mark.parametrize(
    ("values", "accepted", "message"),
    [
        ({"grace_rounds": 10}, {"grace_rounds": 9}, "grace_rounds: got 10, should be at most 9, the last round after"),
        (
            {"grace_rounds": 9, "pruner": "median", "federation": EVERY_4},
            {"grace_rounds": 8, "pruner": "median", "federation": EVERY_4},
            "grace_rounds: got 9, should be at most 8, the last round after which a trial of 10 rounds can be stopped",
        ),
        ({"grace_rounds": 12}, {"grace_rounds": 12, "pruner": "none"}, "grace_rounds: got 12"),
        (
            {"pruner": "median", "federation": {"rounds": 1}},
            {"federation": {"rounds": 1}},  # as by default
            "pruner: median can stop no trial early, since only the last of its 1 rounds is evaluated; take pruner",
        ),
        (
            {"pruner": "patient", "patience": 8},
            {"pruner": "patient", "patience": 7},
            "patience: got 8 for 10 rounds, should be at most 7",
        ),
        (
            {"pruner": "patient", "patience": 0, "grace_rounds": 1, "federation": {"rounds": 2}},
            {"pruner": "patient", "patience": 0, "grace_rounds": 1, "federation": {"rounds": 3}},
            "patience: got 0 for 2 rounds, none is short enough; take pruner: median",
        ),
        ({"patience": 5}, {"pruner": "patient", "patience": 5}, "patience: belongs to pruner: patient, but pruner is"),
        (
            {"pruner": "median", "reduction_factor": 2},
            {"reduction_factor": 2},
            "reduction_factor: belongs to pruner: asha, but pruner is median",
        ),
        (
            {"pruner": "wilcoxon", "federation": {"clients": 5}},
            {"pruner": "wilcoxon", "federation": {"clients": 5}, "seeds_per_trial": 2},
            "pruner: wilcoxon needs 6 clients to compare, and a trial has 5; raise seeds_per_trial, or take median",
        ),
        (
            {"pruner": "wilcoxon", "federation": {"adversary": {"kind": "noise", "fraction": 0.2}}},
            {"pruner": "wilcoxon"},
            "pruner: wilcoxon needs 6 clients to compare, and a trial has 5",
        ),
        ({**GRID, "pruner": "median"}, {**GRID, "pruner": "none"}, "pruner: a grid runs each of its points in full"),
        ({**GRID, "defaults_first": True}, GRID, "defaults_first: a grid runs each of its points in full; leave it"),
        ({"start_from_ignores": ["seed"]}, {}, "start_from_ignores: goes with start_from, which is missing"),
    ],
)
def test_a_key_without_an_effect_is_refused(values, accepted, message):
    with pytest.raises(ConfigError) as caught:
        check_effects(parse_sweep(search(values), source="a.yaml"), source="a.yaml")
    assert f"a.yaml: {message}" in str(caught.value)
    check_effects(parse_sweep(search(accepted), source="a.yaml"), source="a.yaml")


def test_a_new_search_is_checked_and_one_that_was_begun_or_changed_continues(tmp_path, caplog):
    path = tmp_path / "a.yaml"
    path.write_text(dump_yaml(search({"grace_rounds": 4})))
    assert read_sweep(path).settings.grace_rounds == 4
    read_sweep(path, ["rounds=3"])
    assert re.search(r"no trial is stopped early: .*a.yaml: grace_rounds: got 4, should be at most 2", caplog.text)
    path.write_text(dump_yaml(search({"grace_rounds": 4, "federation": {"rounds": 3}})))
    with pytest.raises(ConfigError, match=r"a.yaml: grace_rounds: got 4, should be at most 2, .* of 3 rounds"):
        read_sweep(path)
    begun = parse_sweep(search({"grace_rounds": 4}), ["rounds=3"], source="sweep.yaml")
    assert parse_sweep(begun.to_dict(), source="sweep.yaml") == begun
