"""Limits of this machine: what it certainly cannot hold is refused before any computation."""

import pytest

from promptfleet import limits
from promptfleet.cluster.nodes import Node
from promptfleet.config import PartitionConfig
from promptfleet.data.partition_advice import advise
from promptfleet.errors import ResourceError
from promptfleet.federation.resources import plan_shares
from promptfleet.federation.settings import federation_config
from promptfleet.limits import check_states, check_threads, check_views, memory_bytes

ONE_VIEW = {"images": 1797, "dim": 128, "itemsize": 4, "pixels": 32 * 32, "batch": 32}


def test_memory_is_that_of_the_container(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "_CGROUP", tmp_path / "memory.max")
    machine = memory_bytes()
    assert machine > 2**28
    for text, wanted in (("max\n", machine), ("1000000\n", 1_000_000), (str(2**70), machine)):
        (tmp_path / "memory.max").write_text(text)
        assert memory_bytes() == wanted


@pytest.mark.parametrize(("threads", "cpus"), [(1, 2), (64, 2), (96, 96)])
def test_threads_that_some_machine_has_give_the_same_bits_here(threads, cpus):
    check_threads(threads, cpus)


def test_more_threads_than_any_machine_is_asked_for():
    with pytest.raises(ResourceError, match=r"^runtime.threads_per_client=1000000: there are 2 CPUs; set it to 64"):
        plan_shares(federation_config({"runtime": {"threads_per_client": 10**6}}), [Node(cpus=2.0, gpus=0.0)])


def test_more_processes_than_shares_of_a_cpu():
    with pytest.raises(
        ResourceError, match=r"^1000000 federation\(s\) of 10 client actors are 12000000 processes, too"
    ):
        plan_shares(federation_config({}), [Node(cpus=2.0, gpus=0.0)], concurrent=10**6)


@pytest.mark.parametrize("views", [10**6, 10**12])
def test_views_that_fit_neither_memory_nor_disk(tmp_path, views, monkeypatch):
    monkeypatch.setattr(limits, "memory_bytes", lambda: 10**10)
    with pytest.raises(ResourceError, match=rf"^features.views={views}: they take .* of memory, .* has 10 GB; set it"):
        check_views(views, **ONE_VIEW, folder=tmp_path / "not" / "there")
    check_views(10**10 // (12 * 1024 * 32), **ONE_VIEW, folder=tmp_path)
    monkeypatch.setattr(limits, "memory_bytes", lambda: 10**30)
    with pytest.raises(ResourceError, match=rf"they take .* of disk, {tmp_path} has .*; set it to \d+ or less"):
        check_views(10**12, **ONE_VIEW, folder=tmp_path / "not" / "there")


def test_a_prompt_that_no_memory_holds():
    config = federation_config({"method": "fedpgp"})
    with pytest.raises(ResourceError, match=r"^method=fedpgp: a client trains 1e\+15 numbers, which take 4 PB; this"):
        check_states(config, 10**15)
    check_states(config, 10**6)


def test_advice_on_enormous_settings_comes_at_once():
    enormous = PartitionConfig(min_samples=2**60)
    assert advise(lambda clients, settings: settings.min_samples == 3, 5, 100, enormous) == (
        "partition.min_samples=3 would do"
    )
