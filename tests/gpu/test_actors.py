"""Processes that share a GPU: what they see of it, what does not fit, and that none is forked once CUDA has started."""

from contextlib import closing

import pytest
import torch

import promptfleet
from promptfleet.cluster.fork_server.server import unsafe
from promptfleet.cluster.session import ray_session
from promptfleet.errors import FederationError, ResourceError
from promptfleet.federation.gpu_memory import ActorMemory
from promptfleet.federation.gpu_shares import share_of
from promptfleet.federation.resources import check_memory, plan_shares

pytestmark = pytest.mark.gpu


@pytest.mark.ray
def test_actors_see_their_gpu_alone_and_compute_there(card, digits_config, prepared):
    from promptfleet.federation.on_ray.fleet import RayFleet, put_frozen

    config = digits_config(clients=2, runtime={"backend": "ray"})
    with ray_session() as nodes:
        shares = plan_shares(config, nodes)
        with closing(RayFleet(put_frozen(prepared), shares, start_timeout_s=200, own_group=True)) as fleet:
            places = fleet.whereabouts()
    assert [place["gpus"] for place in places] == [[0], [0]]
    assert [place["resources"]["GPU"] for place in places] == [pytest.approx(shares.client_gpu)] * 2


def test_a_process_that_has_started_cuda_is_not_forked(card):
    torch.zeros(1, device=card)
    assert unsafe() is not None


def test_actors_that_do_not_fit_the_card_are_refused_with_a_share_that_does(card, digits_config, prepared):
    memory = ActorMemory.of(digits_config(), prepared)
    total = torch.cuda.get_device_properties(card).total_memory
    fits = total // memory.bytes
    config = digits_config(runtime={"backend": "ray"}, resources={"client": {"gpu": share_of(2 * fits)}})
    with ray_session() as nodes:
        shares = plan_shares(config, nodes)
    with pytest.raises(ResourceError, match=r"use resources\.client\.gpu=[\d.]+ and runtime\.clients_per_actor=\d+"):
        check_memory(shares, memory, config.clients, total, 1)


def test_a_client_without_memory_stops_the_federation_in_one_line(card, digits_config, prepared):
    torch.cuda.set_per_process_memory_fraction(1e-5, card)
    try:
        with pytest.raises((FederationError, ResourceError), match=r"out of GPU memory: .*use ") as caught:
            promptfleet.run_federation(digits_config(runtime={"on_client_failure": "fail"}))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, card)
    assert "\n" not in str(caught.value)
