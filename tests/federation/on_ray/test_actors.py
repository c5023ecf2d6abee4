"""Actors: where they run, what they may touch, and that nothing is left of them."""

import os
import time

import pytest
import ray
import torch

from promptfleet.cluster.shared_memory import pack, unpack
from promptfleet.data.feature_store import open_features
from promptfleet.data.partition import make_partition
from promptfleet.data.samples import Samples
from promptfleet.errors import ResourceError
from promptfleet.federation.on_ray.actors import ClientActor
from promptfleet.federation.on_ray.fleet import RayFleet, put_frozen
from promptfleet.federation.resources import Shares

pytestmark = pytest.mark.ray
SHARES = Shares(driver_cpu=0.1, server_cpu=0.1, client_cpu=0.2, client_gpu=0, client_actors=3)


@pytest.fixture(scope="module")
def frozen(ray_session, prepared):
    return put_frozen(prepared)


@pytest.fixture(scope="module")
def fleet(frozen):
    fleet = RayFleet(frozen, SHARES, start_timeout_s=240, own_group=True)
    yield fleet
    fleet.close()


def test_one_process_per_client_all_in_one_placement_group(fleet):
    places = fleet.whereabouts()
    assert len({place["pid"] for place in places}) == 3
    assert len({place["placement_group"] for place in places}) == 1
    assert places[0]["placement_group"] is not None
    assert all(place["resources"]["CPU"] == 0.2 for place in places)


@pytest.fixture
def begin(fleet, prepared):
    """Begins a federation in the fleet, and returns the clients' first states."""

    def begin(config):
        samples = Samples(open_features(prepared.features).labels, tuple(map(str, range(10))))
        partition = make_partition(samples, clients=config.clients, settings=config.partition, seed=config.seed)
        fleet.begin(config, partition)
        return fleet.initial_states()

    return begin


def test_a_fleet_used_again_leaves_no_trace_of_the_federation_before(fleet, begin, small_config):
    def first_round(config):
        privates = begin(config)
        trained = fleet.train(1, privates, fleet.select(1, range(3)))
        fleet.aggregate(1, trained.uploads)
        return fleet.fetch(fleet.server_state(), trained.privates)

    config = small_config()
    server, privates = first_round(config)
    first_round(small_config(seed=5, prompt_length=6, experts=1))
    server_again, privates_again = first_round(config)
    assert all(torch.equal(server[name], server_again[name]) for name in server)
    assert privates.keys() == privates_again.keys() == {0, 1, 2}
    for client, state in privates.items():
        assert all(torch.equal(privates_again[client][name], tensor) for name, tensor in state.items())


def test_states_that_few_clients_still_have_leave_the_others_behind(fleet, begin, small_config):
    first = begin(small_config(clients=5, runtime={"clients_per_actor": 5}))
    assert len(set(first.values())) == 1
    trained = fleet.train(1, {client: first[client] for client in range(4)}, fleet.select(1, range(4))).privates
    now = {**first, **trained}
    packed = fleet.repack(now)
    assert {client: block for client, block in packed.items() if client != 4} == trained
    assert (now[4].size, packed[4].size) == (5, 1)
    assert fleet.repack(packed) == packed
    before, after = (fleet.fetch(fleet.server_state(), handles)[1] for handles in (now, packed))
    for client in range(5):
        assert all(torch.equal(before[client][name], tensor) for name, tensor in after[client].items())


@pytest.mark.slow
def test_closing_ends_every_process(frozen):
    fleet = RayFleet(frozen, SHARES, start_timeout_s=240, own_group=True)
    pids = [place["pid"] for place in fleet.whereabouts()]
    fleet.close()
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, "client processes outlived their fleet"
        time.sleep(0.1)


def test_what_cannot_be_placed_is_an_error_and_not_a_wait(frozen):
    too_big = Shares(driver_cpu=0.1, server_cpu=0.1, client_cpu=99, client_gpu=0, client_actors=1)
    with pytest.raises(ResourceError, match=r"did not start within runtime\.start_timeout_s=1"):
        RayFleet(frozen, too_big, start_timeout_s=1, own_group=True)


def vandal_class():
    """A client whose code writes into frozen weights; made in a function, so that Ray ships it by value."""

    class Vandal(ClientActor):
        def write(self):
            self._clip.tower.weights["positional_embedding"].add_(1)

        def look(self):
            return float(self._clip.tower.weights["positional_embedding"].sum())

    return Vandal


def test_frozen_weights_cannot_be_changed_by_one_client_for_all(frozen, prepared):
    vandal, bystander = (ray.remote(vandal_class()).options(num_cpus=0.1).remote(frozen) for _ in range(2))
    before = ray.get(bystander.look.remote())
    assert before == pytest.approx(float(prepared.clip.tower.weights["positional_embedding"].sum()), rel=1e-5)
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(vandal.write.remote())
    assert ray.get(bystander.look.remote()) == before
    ray.kill(bystander)


def test_frozen_inputs_come_back_as_they_were_prepared(frozen, prepared):
    @ray.remote(num_cpus=0.1, max_calls=1)  # what seals memory must not live on
    def take_out(frozen):
        again = frozen.prepared()
        return {name: tensor.numpy().copy() for name, tensor in again.clip.tensors().items()}, again.features

    tensors, features = ray.get(take_out.remote(frozen))
    wanted = prepared.clip.tensors()
    assert tensors.keys() == wanted.keys()
    assert all((wanted[name].numpy() == tensors[name]).all() for name in wanted)
    assert features == prepared.features


def test_packing_keeps_every_bit_and_every_type():
    tensors = {"a": torch.randn(3, 5), "b": torch.arange(7), "c": torch.tensor([True, False]), "d": torch.tensor(2.5)}
    unpacked = unpack(pack(tensors))
    for name, tensor in tensors.items():
        assert unpacked[name].dtype == tensor.dtype
        assert torch.equal(unpacked[name], tensor)
        assert unpacked[name].data_ptr() % 16 == 0
