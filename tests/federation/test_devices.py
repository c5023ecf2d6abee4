"""Where things are computed, on machines with a GPU that torch only pretends to have, and without one."""

import pytest
import torch

from promptfleet.config import FederationConfig
from promptfleet.devices import choose_device
from promptfleet.errors import ConfigError, ResourceError
from promptfleet.federation import local_fleet
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.resources import Node, plan_shares
from promptfleet.federation.run import run_federation
from promptfleet.federation.settings import federation_config


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
    assert choose_device(wanted).type == device


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
    monkeypatch.setattr(local_fleet, "ClientGroup", lambda world, store, splits: worlds.setdefault("clients", world))
    config = small_config()
    fleet = LocalFleet(prepared)
    fleet.begin(config, type("Partition", (), {"clients": []}))
    fleet.close()
    assert worlds["clients"].device.type == "meta"
    assert worlds["clients"].clip.tower.weights["positional_embedding"].device.type == "meta"
    assert worlds["server"].device.type == "cpu"
