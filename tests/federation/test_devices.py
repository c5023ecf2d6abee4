"""Devices of computations, on machines with a GPU that torch only pretends to have, and without one."""

import os

import numpy as np
import pytest
import torch

from promptfleet.cluster.nodes import Node
from promptfleet.config import FederationConfig
from promptfleet.data.client_split import ClientSplit
from promptfleet.data.partition import Partition
from promptfleet.devices import check_visible, choose_device, moved, set_arithmetic
from promptfleet.errors import ConfigError, ResourceError
from promptfleet.federation import local_fleet
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.resources import plan_shares
from promptfleet.federation.run import run_federation
from promptfleet.federation.settings import federation_config

ONE_CLIENT = Partition((ClientSplit(*(np.array([sample]) for sample in range(3))),))


@pytest.mark.parametrize(
    ("wanted", "has_gpu", "device"),
    [
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_auto_is_the_gpu_where_there_is_one(monkeypatch, wanted, has_gpu, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert choose_device(wanted).type == device
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if device == "cuda" else None)


@pytest.mark.parametrize("backend", ["local", "ray"])
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_read(monkeypatch, backend):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("promptfleet.federation.run.local_nodes", lambda: [Node(2, 0)])
    monkeypatch.setattr("promptfleet.federation.run.prepare", lambda config: pytest.fail("the dataset was read"))
    with pytest.raises(ResourceError, match=r"^runtime\.device=cuda: there is no GPU on .* set it to auto or cpu$"):
        run_federation({"runtime": {"device": "cuda", "backend": backend}})


def test_cpu_takes_no_share_of_a_gpu():
    nodes = [Node(8, 2)]
    assert plan_shares(federation_config({"runtime": {"device": "cpu"}}), nodes).client_gpu == 0
    for device in ("auto", "cuda"):
        assert plan_shares(federation_config({"runtime": {"device": device}}), nodes).client_gpu == 0.2


@pytest.mark.parametrize(
    ("device", "share", "complaint"),
    [("cpu", 0.5, "needs no GPU: set resources.client.gpu=0.5 to auto"), ("cuda", 0.0, "needs a share of a GPU")],
)
def test_a_device_and_a_share_that_contradict_each_other(device, share, complaint):
    with pytest.raises(ConfigError, match=f"runtime.device={device} {complaint}"):
        federation_config({"runtime": {"device": device}, "resources": {"client": {"gpu": share}}})


def test_the_device_is_no_part_of_what_a_result_depends_on():
    chosen = federation_config({"runtime": {"device": "cpu"}})
    assert chosen.fingerprint() == federation_config({}).fingerprint()
    assert FederationConfig().runtime.device == "auto"


def test_in_process_clients_are_on_the_device_and_the_server_is_not(monkeypatch, small_config, prepared):
    worlds = {}
    monkeypatch.setattr(local_fleet, "choose_device", lambda wanted: torch.device("meta"))
    monkeypatch.setattr(local_fleet, "Server", lambda method, world: worlds.setdefault("server", world))
    monkeypatch.setattr(local_fleet, "ClientGroup", lambda world, *rest: worlds.setdefault("clients", world))
    config = small_config()
    fleet = LocalFleet(prepared)
    fleet.begin(config, ONE_CLIENT)
    alone = worlds.pop("server")
    fleet.begin(small_config(resources={"server": {"gpu": 0.05}}), ONE_CLIENT)
    fleet.close()
    assert worlds["clients"].device.type == "meta"
    assert worlds["clients"].clip.tower.weights["positional_embedding"].device.type == "meta"
    assert alone.device.type == "cpu"
    assert worlds["server"].device.type == "meta"  # with a share of its own


@pytest.fixture
def switches():
    """Return a function for the settings of ``set_arithmetic``, which are restored afterwards."""

    def now():
        tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        return torch.get_deterministic_debug_mode(), *tf32

    before = now()
    yield now
    torch.set_deterministic_debug_mode(before[0])
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before[1:]


def test_on_a_gpu_bits_repeat_and_tf32_is_for_those_who_ask(switches):
    before = switches()
    set_arithmetic(torch.device("cpu"), tf32=True)
    assert switches() == before
    for tf32 in (True, False):
        set_arithmetic(torch.device("cuda"), tf32=tf32)
        assert switches() == (1, tf32, tf32)


@pytest.mark.parametrize(("precision", "tf32"), [("float32", False), ("tf32", True), ("bfloat16", False)])
def test_the_precision_of_a_federation_decides_on_tf32(monkeypatch, small_config, prepared, precision, tf32):
    asked = []
    monkeypatch.setattr(local_fleet, "set_arithmetic", lambda device, tf32: asked.append((device.type, tf32)))
    monkeypatch.setattr(local_fleet, "Server", lambda *_: None)
    monkeypatch.setattr(local_fleet, "ClientGroup", lambda *_: None)
    LocalFleet(prepared).begin(small_config(precision=precision), ONE_CLIENT)
    assert asked == [("cpu", tf32)]


def test_an_actor_that_sees_more_than_its_own_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_visible(torch.device("cpu"), 0)
    check_visible(torch.device("cuda"), 2)
    with pytest.raises(ResourceError, match=r"was given 1 GPU\(s\) and sees 2: .*CUDA_VISIBLE_DEVICES"):
        check_visible(torch.device("cuda"), 1)


def test_pinned_memory_is_for_copies_to_a_gpu(monkeypatch):
    copies = []

    class Spy(torch.Tensor):
        def pin_memory(self):
            copies.append("pinned")
            return self

        def to(self, device, **options):
            copies.append((device.type, options))
            return self

    for device in ("cpu", "cuda"):
        moved(torch.zeros(2).as_subclass(Spy), torch.device(device))
    assert copies == [("cpu", {}), "pinned", ("cuda", {"non_blocking": True})]
