"""Every method in whole federations on the digits, in this process and on actors."""

import pytest

import promptfleet
from promptfleet.cluster.nodes import Node
from promptfleet.federation import local_fleet, rounds
from promptfleet.federation.conditions.cohort import sample_cohort
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.prepare import prepare
from promptfleet.federation.resources import plan_shares
from promptfleet.federation.rounds import Federation
from promptfleet.methods import METHODS, load_method
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import Needs

ON_FEATURES = [name for name in METHODS if load_method(name).needs is Needs.GLOBAL]


def run(config, prepared, fleet):
    federation = Federation(config, prepared, fleet)
    while federation.rounds_done < config.rounds:
        federation.run_round()
    return federation.result()


def test_all_clients_train_where_a_method_says_so(small_config, prepared):
    fleet = LocalFleet(prepared)
    for name, wanted in [("linear_probe", [0, 1, 2]), ("zero_shot", sample_cohort(0, 1, 3, 0.34))]:
        config = small_config(method=name, rounds=1, participation=0.34)
        assert run(config, prepared, fleet).rounds[0].cohort == wanted
    fleet.close()


class Fades(PromptFL):
    """PromptFL with fewer clients in each round; remembers what downloads were for."""

    def __init__(self):
        self.calls = []

    def participation(self, config, round_index):
        return config.participation / round_index

    def select(self, server, call):
        self.calls.append((call.purpose, call.round, len(call.clients)))
        return super().select(server, call)


def test_a_method_says_who_trains_in_which_round_and_is_told_what_downloads_are_for(
    monkeypatch, small_config, prepared
):
    method = Fades()
    for module in (local_fleet, rounds):
        monkeypatch.setattr(module, "load_method", lambda name: method)
    config = small_config(method="promptfl", clients=3, rounds=3, participation=1.0)
    result = run(config, prepared, LocalFleet(prepared))
    cohorts = [sample_cohort(0, round_index, 3, 1 / round_index) for round_index in (1, 2, 3)]
    assert [report.cohort for report in result.rounds] == cohorts
    assert [len(cohort) for cohort in cohorts] == [3, 2, 1]
    train, evaluate = ([call[1:] for call in method.calls if call[0] == why] for why in ("train", "evaluate"))
    assert train == [(1, 3), (2, 2), (3, 1)]
    assert evaluate == [(1, 3), (2, 3), (3, 3)]


def test_zero_shot_scores_what_every_result_names_as_zero_shot(small_config, prepared):
    result = run(small_config(method="zero_shot", rounds=1), prepared, LocalFleet(prepared))
    assert [c.test_accuracy for c in result.clients] == pytest.approx([c.zero_shot_accuracy for c in result.clients])


@pytest.mark.ray
@pytest.mark.slow
def test_packed_actors_give_the_same_bits_as_this_process(ray_session, few_shot_config, prepared):
    from promptfleet.federation.on_ray.fleet import RayFleet, put_frozen

    runtime = {"backend": "ray", "clients_per_actor": 2}
    shares = plan_shares(few_shot_config(runtime=runtime), [Node(2, 0)])
    actors = RayFleet(put_frozen(prepared), shares, start_timeout_s=240, own_group=True)
    try:
        for name in ON_FEATURES:
            config = few_shot_config(method=name, runtime=runtime)
            there, here = run(config, prepared, actors), run(config, prepared, LocalFleet(prepared))
            assert there.state_sha256 == here.state_sha256, name
            assert there.clients == here.clients, name
    finally:
        actors.close()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in METHODS if Needs.PIXELS in load_method(name).needs])
def test_packed_actors_and_a_resumed_run_give_the_same_bits_of_a_method_that_sees_pixels(
    ray_session, small_config, tmp_path, name
):
    def stop(report):
        raise KeyboardInterrupt

    config = small_config(method=name, rounds=2, runtime={"backend": "ray", "clients_per_actor": 2})
    prepared = prepare(config)
    here = run(config, prepared, LocalFleet(prepared))
    with pytest.raises(KeyboardInterrupt):
        promptfleet.run_federation(config, folder=tmp_path / name, on_round=stop)
    rounds = []
    there = promptfleet.run_federation(config, folder=tmp_path / name, on_round=rounds.append)
    assert [report.round for report in rounds] == [2]
    assert there.state_sha256 == here.state_sha256
    assert there.clients == here.clients
