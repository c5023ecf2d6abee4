"""Trials of several federations that differ in their seed: their folders, their place, and their mean."""

from statistics import fmean

import pytest

from promptfleet.cluster.nodes import Node
from promptfleet.config import FederationConfig
from promptfleet.errors import ConfigError, ResourceError
from promptfleet.federation.checkpoints.folder import load_summary
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.resources import Shares
from promptfleet.search import trial as trial_module
from promptfleet.search.seats import Seats, most_concurrent, plan_seats, seat_folders, seeded
from promptfleet.search.spec import parse_sweep
from promptfleet.search.sweep import concurrent_trials
from promptfleet.search.trial import FederationTrial

SHARES = Shares(driver_cpu=0.1, server_cpu=0.1, client_cpu=0.1, client_gpu=0.0, client_actors=2)


def test_a_trials_seeds_follow_its_configurations_own(tmp_path):
    configs = seeded(FederationConfig(seed=5), 3)
    assert [config.seed for config in configs] == [5, 6, 7]
    assert len({config.fingerprint() for config in configs}) == 3
    assert seat_folders(tmp_path, 3) == [tmp_path, tmp_path / "seed-1", tmp_path / "seed-2"]


def test_federations_run_side_by_side_where_there_is_room_and_else_in_turn():
    config = FederationConfig(clients=10)
    assert plan_seats(config, [Node(64.0, 0.0, "a")], concurrent=1, seeds=3).fleets == 3
    assert len(plan_seats(config, [Node(64.0, 0.0, "a")], concurrent=1, seeds=3).bundles()) == 1 + 3 * 11
    seats = plan_seats(config, [Node(64.0, 0.0, "a")], concurrent=1, seeds=3)
    assert [seats.first_bundle(fleet) for fleet in range(3)] == [1, 12, 23]
    small = [Node(1.0, 0.0, "a")]
    packed = FederationConfig(clients=10, resources={"client": {"cpu": 0.08}, "server": {"cpu": 0.02}})
    assert plan_seats(packed, small, concurrent=1, seeds=3).fleets == 1
    with pytest.raises(ResourceError):
        plan_seats(packed, small, concurrent=3, seeds=3)


@pytest.mark.parametrize(
    ("cpus", "gpus", "seeds", "most"),
    [(2, 0, 1, 1), (20, 0, 1, 4), (20, 0, 2, 2), (0.5, 0, 1, 1), (200, 0, 1, 9), (64, 1, 1, 2), (64, 4, 1, 8)],
)
def test_auto_fills_the_cluster_with_trials(cpus, gpus, seeds, most):
    config = FederationConfig(clients=5, runtime={"device": "cuda" if gpus else "cpu"})
    node = Node(float(cpus), float(gpus), "a")
    assert most_concurrent(config, [node], seeds=seeds, trials=9) == most


def test_a_sweep_on_auto_takes_its_largest_federation():
    space = {"experts": {"int": [1, 3]}, "clients": {"choice": [4, 10]}}
    spec = parse_sweep({"concurrent_trials": "auto", "space": space}, source="a")
    assert concurrent_trials(spec, [Node(20.0, 0.0, "a")]) == 2
    assert concurrent_trials(parse_sweep({"concurrent_trials": 3, "space": space}, source="a"), []) == 3
    with pytest.raises(ConfigError, match="concurrent_trials: got 'all', should be 'auto' or a valid integer"):
        parse_sweep({"concurrent_trials": "all", "space": space}, source="a")


@pytest.fixture
def run_trial(prepared, few_shot_config, tmp_path, monkeypatch):
    """Run the rounds of a trial in this process, on ``fleets`` fleets; returns the result of each step."""

    class Fleet(LocalFleet):
        def __init__(self, frozen, shares, **options):
            super().__init__(prepared)

    monkeypatch.setattr(trial_module, "RayFleet", Fleet)

    def run(name, fleets, *, seeds=2, steps=None, settled=0):
        config = few_shot_config(rounds=2, storage={"path": str(tmp_path)})
        trial = object.__new__(FederationTrial)
        trial._plan = lambda config, seeds: Seats(SHARES, fleets)
        trial._frozen_ref, trial._prepared = None, prepared
        trial._seats_planned, trial._fleets, trial._open = None, [], []
        values = {"federation": config, "folder": name, "settled_rounds": settled, "seeds": seeds}
        values["judged_by"] = "val/local"
        trial._begin(values)
        found = [trial.step() for _ in range(config.rounds if steps is None else steps)]
        trial.cleanup()
        return found

    return run


def test_a_round_of_a_trial_is_the_mean_of_its_federations_side_by_side_and_in_turn(
    run_trial, tmp_path, few_shot_config
):
    together, in_turn = run_trial("a", 2), run_trial("b", 1)
    assert [one["val_accuracy"] for one in together] == [one["val_accuracy"] for one in in_turn]
    assert [(one["round"], one["done"]) for one in together] == [(1, False), (2, True)]
    configs = seeded(few_shot_config(rounds=2, storage={"path": str(tmp_path)}), 2)
    for name in "ab":
        folders = seat_folders(tmp_path / name, 2)
        summaries = [load_summary(place, one.fingerprint()) for place, one in zip(folders, configs, strict=True)]
        assert len({summary.state_sha256 for summary in summaries}) == 2
        assert together[-1]["val_accuracy"] == fmean(summary.honest_val_accuracy for summary in summaries)
        figures = together[-1]["figures"]
        assert figures.quantities["rounds"] == 4
        assert figures.clients == [value for one in summaries for value in one.rounds[-1].client_val_accuracy]


@pytest.mark.parametrize("fleets", [1, 2])
def test_a_trial_that_was_killed_reports_its_last_round_again_and_goes_on(run_trial, fleets):
    undisturbed = run_trial("a", fleets)
    first = run_trial("b", fleets, steps=1)
    assert [one["val_accuracy"] for one in first] == [undisturbed[0]["val_accuracy"]]
    again = run_trial("b", fleets, settled=0)
    assert [one["val_accuracy"] for one in again] == [one["val_accuracy"] for one in undisturbed]
    last = run_trial("b", fleets, settled=1, steps=1)
    assert (last[0]["round"], last[0]["val_accuracy"]) == (2, undisturbed[1]["val_accuracy"])
