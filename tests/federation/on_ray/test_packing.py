"""Several clients in one actor: fewer processes, the same numbers."""

import pytest
import torch

import promptfleet
from promptfleet.federation.rounds import Federation

PER_ACTOR = 2  # of three clients: actors of two and of one


@pytest.fixture(scope="module")
def one_each(ray_session, small_config):
    return promptfleet.run_federation(small_config(runtime={"backend": "ray"}))


def packed(small_config, *, batch_steps):
    runtime = {"backend": "ray", "clients_per_actor": PER_ACTOR, "batch_steps": batch_steps}
    return promptfleet.run_federation(small_config(runtime=runtime))


@pytest.mark.ray
def test_without_batching_every_bit_is_that_of_one_actor_each(one_each, small_config):
    result = packed(small_config, batch_steps=False)
    assert result.state_sha256 == one_each.state_sha256
    assert [c.test_accuracy for c in result.clients] == [c.test_accuracy for c in one_each.clients]
    assert [c.id for c in result.clients] == [0, 1, 2]
    assert [r.cohort for r in result.rounds] == [r.cohort for r in one_each.rounds]
    assert [r.uploaded_bytes for r in result.rounds] == [r.uploaded_bytes for r in one_each.rounds]


@pytest.mark.ray
def test_with_batching_prompts_agree_to_1e_5(one_each, small_config):
    result = packed(small_config, batch_steps=True)
    for client in range(3):
        for name, tensor in one_each.privates[client].items():
            assert torch.allclose(result.privates[client][name].double(), tensor.double(), rtol=0, atol=1e-5), name
    assert torch.allclose(result.server["context"], one_each.server["context"], rtol=0, atol=1e-5)


@pytest.mark.ray
def test_clients_of_one_actor_share_its_process(ray_session, prepared, small_config):
    from promptfleet.cluster.nodes import Node
    from promptfleet.federation.on_ray.fleet import RayFleet, put_frozen
    from promptfleet.federation.resources import plan_shares

    config = small_config(clients=5, runtime={"backend": "ray", "clients_per_actor": 2})
    shares = plan_shares(config, [Node(2, 0)])
    assert shares.client_actors == 3
    fleet = RayFleet(put_frozen(prepared), shares, start_timeout_s=240, own_group=True)
    try:
        federation = Federation(config, prepared, fleet)
        report = federation.run_round()
        assert len({place["pid"] for place in fleet.whereabouts()}) == 3
        assert len(report.client_test_accuracy) == 5
        assert sorted(federation.snapshot().privates) == list(range(5))
    finally:
        fleet.close()


@pytest.mark.ray
def test_nobody_trains_more_than_its_share_of_a_cohort_and_the_numbers_stay(
    ray_session, prepared, small_config, monkeypatch
):
    """Three of the clients 0-2 and 3-5 would be one actor's; client 2 is the other one's guest."""
    from promptfleet.cluster.nodes import Node
    from promptfleet.federation.on_ray import fleet as ray_fleet
    from promptfleet.federation.on_ray.fleet import RayFleet, put_frozen
    from promptfleet.federation.resources import plan_shares

    results = []
    for runtime in ({"backend": "local"}, {"backend": "ray", "clients_per_actor": 3}):
        config = small_config(clients=6, participation=0.67, rounds=3, runtime={**runtime, "batch_steps": False})
        if runtime["backend"] == "local":
            results.append(promptfleet.run_federation(config))
            continue
        fleet = RayFleet(put_frozen(prepared), plan_shares(config, [Node(2, 0)]), start_timeout_s=240, own_group=True)
        try:
            federation = Federation(config, prepared, fleet)
            selection = fleet.select(1, [0, 1, 2, 5])
            assert [(call.actor, list(call.clients)) for call in selection.calls] == [(0, [0, 1]), (1, [2, 5])]
            assert [list(call.clients) for call in fleet.select(1, range(6)).calls] == [[0, 1, 2], [3, 4, 5]]
            monkeypatch.setattr(ray_fleet, "MANY", 2)
            monkeypatch.setattr(ray_fleet, "PART", 1)  # everybody is more than that, a cohort is not
            assert [list(call.clients) for call in fleet.select(1, range(6)).calls] == [[0], [3], [1, 2], [4, 5]]
            while federation.rounds_done < 3:
                federation.run_round()
            results.append(federation.result())
        finally:
            fleet.close()
    assert results[0].state_sha256 == results[1].state_sha256
    assert any(sum(client < 3 for client in report.cohort) != 2 for report in results[0].rounds)


@pytest.mark.ray
def test_methods_that_see_patches_get_the_same_bits_packed_as_in_this_process(ray_session, small_config):
    results = [
        promptfleet.run_federation(
            small_config(method="fedotp", rounds=1, partition={"new_classes": 0.5}, runtime=runtime)
        )
        for runtime in ({"backend": "local"}, {"backend": "ray", "clients_per_actor": PER_ACTOR})
    ]
    assert results[0].state_sha256 == results[1].state_sha256
    assert [c.test_accuracy for c in results[0].clients] == [c.test_accuracy for c in results[1].clients]
    assert results[0].set_calibration == results[1].set_calibration
    assert results[0].set_calibration.keys() == {"test/base", "test/new"}
