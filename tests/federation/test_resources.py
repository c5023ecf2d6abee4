"""What fits, what does not, and what the message says."""

import pytest

from promptfleet.errors import ResourceError
from promptfleet.federation.resources import Node, plan_shares
from promptfleet.federation.settings import federation_config

LAPTOP = [Node(cpus=2, gpus=0)]


def plan(nodes, concurrent=1, **values):
    return plan_shares(federation_config(values), nodes, concurrent=concurrent)


def test_without_gpus_a_client_takes_a_fraction_of_a_cpu():
    shares = plan(LAPTOP)
    assert (shares.client_cpu, shares.client_gpu) == (0.1, 0)
    assert shares.bundles() == [{"CPU": 0.1}] * 12


def test_with_gpus_a_client_takes_a_tenth_of_one():
    shares = plan([Node(cpus=8, gpus=1)])
    assert shares.client_gpu == 0.1
    assert shares.bundles()[2] == {"CPU": 0.1, "GPU": 0.1}
    assert shares.bundles()[1] == {"CPU": 0.1}


@pytest.mark.parametrize(("clients", "concurrent"), [(100, 1), (10, 4), (1000, 1)])
def test_auto_always_fits_the_cpus(clients, concurrent):
    shares = plan(LAPTOP, concurrent, clients=clients)
    assert shares.client_cpu > 0
    assert concurrent * sum(bundle["CPU"] for bundle in shares.bundles()) <= 2


def test_too_many_clients_for_the_gpus():
    with pytest.raises(ResourceError, match=r"11 client actors .*gpu=0\.1 do not fit: there is room for 10 on 1 GPUs"):
        plan([Node(cpus=8, gpus=1)], clients=11)


def test_a_share_never_straddles_two_gpus():
    assert plan([Node(8, 2)], clients=4, resources={"client": {"gpu": 0.5}}).client_gpu == 0.5
    with pytest.raises(ResourceError, match="room for 2 on 2 GPUs"):
        plan([Node(8, 2)], clients=3, resources={"client": {"gpu": 0.6}})


def test_more_than_one_gpu_must_be_whole():
    with pytest.raises(ResourceError, match=r"gpu=1\.5: more than one GPU must be a whole number"):
        plan([Node(8, 4)], clients=2, resources={"client": {"gpu": 1.5}})


def test_gpus_asked_for_where_there_are_none():
    with pytest.raises(ResourceError, match="there is room for 0 on 0 GPUs"):
        plan(LAPTOP, resources={"client": {"gpu": 0.1}})


def test_too_much_cpu_says_what_is_needed_and_what_there_is():
    with pytest.raises(ResourceError, match=r"cpu=1 need 10\.2 CPUs, there are 2 on 1 node"):
        plan(LAPTOP, resources={"client": {"cpu": 1.0}})
