"""Resources that fit, that do not, and the messages about them."""

import pytest

from promptfleet.cluster.nodes import Node
from promptfleet.errors import ResourceError
from promptfleet.federation import resources
from promptfleet.federation.gpu_memory import GIB, ActorMemory, Measured
from promptfleet.federation.resources import announce_gpus, check_memory, plan_shares
from promptfleet.federation.settings import federation_config

LAPTOP = [Node(cpus=2, gpus=0)]


def plan(nodes, concurrent=1, **values):
    return plan_shares(federation_config(values), nodes, concurrent=concurrent)


def test_without_gpus_a_client_takes_a_fraction_of_a_cpu():
    shares = plan(LAPTOP)
    assert (shares.client_cpu, shares.client_gpu) == (0.1, 0)
    assert shares.bundles() == [{"CPU": 0.1}] * 12


def test_with_gpus_actors_share_them_out_evenly():
    shares = plan([Node(cpus=8, gpus=1)])
    assert (shares.client_gpu, shares.actors_per_gpu) == (0.1, 10)
    assert shares.bundles()[2] == {"CPU": 0.1, "GPU": 0.1}
    assert shares.bundles()[1] == {"CPU": 0.1}


@pytest.mark.parametrize(
    ("clients", "gpus", "concurrent", "share"),
    [(1, 1, 1, 1.0), (2, 4, 1, 1.0), (4, 1, 1, 0.25), (6, 2, 1, 0.3333), (7, 1, 1, 0.1428), (4, 2, 4, 0.125)],
)
def test_auto_is_one_nth_of_a_gpu(clients, gpus, concurrent, share):
    shares = plan([Node(cpus=8, gpus=gpus)], concurrent, clients=clients)
    assert shares.client_gpu == share
    assert shares.actors_per_gpu * share <= 1
    assert shares.actors_per_gpu * gpus >= clients * concurrent


@pytest.mark.parametrize(("clients", "concurrent"), [(100, 1), (10, 4), (1000, 1)])
def test_auto_always_fits_the_cpus(clients, concurrent):
    shares = plan(LAPTOP, concurrent, clients=clients)
    assert shares.client_cpu > 0
    assert concurrent * sum(bundle["CPU"] for bundle in shares.bundles()) <= 2


def test_too_many_clients_for_the_gpus():
    with pytest.raises(ResourceError, match=r"11 client actors .*gpu=0\.1 do not fit: there is room for 10 on 1 GPUs"):
        plan([Node(cpus=8, gpus=1)], clients=11)


def test_the_message_says_how_many_clients_to_pack():
    with pytest.raises(ResourceError, match=r"Use runtime\.clients_per_actor=5, fewer clients, a smaller share"):
        plan([Node(cpus=8, gpus=2)], clients=100)


def test_a_share_never_straddles_two_gpus():
    assert plan([Node(8, 2)], clients=4, resources={"client": {"gpu": 0.5}}).client_gpu == 0.5
    with pytest.raises(ResourceError, match="room for 4 on 2 GPUs"):
        plan([Node(8, 2)], clients=5, resources={"client": {"gpu": 0.5}})


@pytest.mark.parametrize("share", [0.6, 0.3, 0.15])
def test_a_share_that_wastes_a_part_of_each_gpu_is_refused(share):
    per_gpu = int(1 / share)
    wanted = rf"gpu={share}: {per_gpu} such actors fit .* use 1/n: [\d.]+ for {per_gpu}, or [\d.]+ for {per_gpu + 1}"
    with pytest.raises(ResourceError, match=wanted):
        plan([Node(8, 2)], clients=2, resources={"client": {"gpu": share}})


@pytest.mark.parametrize(("share", "per_gpu"), [(0.33, 3), (0.3333, 3), (0.14, 7), (1.0, 1), (0.0001, 10_000)])
def test_what_is_nearly_one_nth_is_taken_as_it_is(share, per_gpu):
    shares = plan([Node(8, 2)], clients=2, resources={"client": {"gpu": share}})
    assert (shares.client_gpu, shares.actors_per_gpu) == (share, per_gpu)


def test_a_share_below_what_ray_counts_is_refused():
    with pytest.raises(ResourceError, match=r"gpu=1e-05: Ray counts in steps of 0\.0001"):
        plan([Node(8, 2)], clients=2, resources={"client": {"gpu": 1e-5}})


def memory(weights_gib: float, measured: Measured | None = None) -> ActorMemory:
    return ActorMemory("ViT-B-16", measured, int(weights_gib * GIB), int(0.25 * GIB), side_by_side=2)


def test_memory_of_a_gpu_is_told_and_too_little_refused(caplog):
    shares = plan([Node(cpus=8, gpus=1)], clients=4)
    with caplog.at_level("INFO", "promptfleet"):
        check_memory(shares, memory(0.25), 4, 0, 1)
        check_memory(shares, memory(0.25), 4, 4 * GIB, 1)
    told = (
        "client actors: 0.25 GPU each, 4 to a GPU; about 1.0 GiB each: 0.5 CUDA (assumed, ViT-B-16 is not measured "
        "yet), 0.25 weights, 0.25 a step of 2 client(s); 4.0 GiB of a GPU"
    )
    assert [record.message for record in caplog.records] == [told, told]
    advice = r"which has 3\.9 GiB: use resources\.client\.gpu=0\.3333 and runtime\.clients_per_actor=2$"
    with pytest.raises(ResourceError, match=advice):
        check_memory(shares, memory(0.25), 4, 4 * GIB - 2**26, 1)
    with pytest.raises(ResourceError, match=r"use a smaller runtime\.clients_per_actor, or a larger GPU"):
        check_memory(shares, memory(0.25), 4, GIB // 2, 1)


def test_without_gpus_nothing_is_told_of_them(caplog):
    with caplog.at_level("INFO", "promptfleet"):
        announce_gpus(plan(LAPTOP), None, None, LAPTOP)
    assert not caplog.records


def test_what_was_measured_decides_how_many_actors_share_a_gpu(monkeypatch, caplog):
    seen = Measured("NVIDIA H100", "2026-12-01", cuda_gib=0.4, weights_gib=0.15, step_gib=0.2)
    monkeypatch.setattr(resources, "measured_memory", lambda: {"ViT-B-16": seen})
    federation = {"clients": 60, "backbone": {"name": "ViT-B-16", "pretrained": "openai"}}
    assert plan([Node(cpus=8, gpus=1, gpu_bytes=80 * GIB)], **federation).actors_per_gpu == 60
    assert plan([Node(cpus=8, gpus=2, gpu_bytes=80 * GIB)], **federation).actors_per_gpu == 30
    with pytest.raises(ResourceError, match="room for 13 on 1 GPUs"):
        plan([Node(cpus=8, gpus=1, gpu_bytes=10 * GIB)], **federation)
    with pytest.raises(ResourceError, match="room for 10 on 1 GPUs"):  # of a GPU whose memory is not known
        plan([Node(cpus=8, gpus=1)], **federation)
    with caplog.at_level("INFO", "promptfleet"):
        check_memory(plan([Node(cpus=8, gpus=1)], clients=2), memory(0.25, seen), 2, 0, 1)
    assert "0.4 CUDA (measured on NVIDIA H100)" in caplog.records[-1].message


def test_a_server_with_a_share_leaves_the_rest_to_clients():
    with_server = {"resources": {"server": {"gpu": 0.05}}}
    shares = plan([Node(cpus=8, gpus=1)], **with_server)
    assert (shares.server_gpu, shares.client_gpu, shares.actors_per_gpu) == (0.05, 0.095, 10)
    assert shares.bundles()[1] == {"CPU": 0.1, "GPU": 0.05}
    assert sum(bundle.get("GPU", 0) for bundle in shares.bundles()) <= 1
    crowded = {"clients": 20, "resources": {"server": {"gpu": 0.05}, "client": {"gpu": 0.05}}}
    with pytest.raises(ResourceError, match=r"20 client actors .* do not fit: there is room for 19 on 1 GPUs"):
        plan([Node(cpus=8, gpus=1)], **crowded)
    assert plan([Node(cpus=8, gpus=1)], **{**crowded, "clients": 19}).actors_per_gpu == 20
    with pytest.raises(ResourceError, match=r"resources\.server\.gpu=0\.05: there are 0 GPUs"):
        plan(LAPTOP, **with_server)


def test_more_than_one_gpu_must_be_whole():
    with pytest.raises(ResourceError, match=r"gpu=1\.5: more than one GPU must be a whole number"):
        plan([Node(8, 4)], clients=2, resources={"client": {"gpu": 1.5}})


def test_gpus_asked_for_where_there_are_none():
    with pytest.raises(ResourceError, match="there is room for 0 on 0 GPUs"):
        plan(LAPTOP, resources={"client": {"gpu": 0.1}})


def test_too_much_cpu_says_what_is_needed_and_what_there_is():
    with pytest.raises(ResourceError, match=r"cpu=1 need 10\.2 CPUs, there are 2 on 1 node"):
        plan(LAPTOP, resources={"client": {"cpu": 1.0}})
