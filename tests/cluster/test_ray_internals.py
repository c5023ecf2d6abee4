"""The private parts of Ray: this version has them all, and another one is noticed."""

import signal

import pytest

from promptfleet.cluster import ray_internals
from promptfleet.cluster.ray_internals import HELPERS, MEASURED_WITH, _replaced, before_main_loop, other_version


@pytest.fixture
def fresh_check():
    other_version.cache_clear()
    yield
    other_version.cache_clear()


@pytest.mark.parametrize(("found", "other"), [(MEASURED_WITH, None), ("9.9.9", "9.9.9")])
def test_another_version_of_ray_is_noticed_and_looked_up_once(monkeypatch, fresh_check, found, other):
    asked = []
    monkeypatch.setattr(ray_internals, "version", lambda package: asked.append(package) or found)
    assert [other_version(), other_version()] == [other, other]
    assert asked == ["ray"]


def test_this_ray_has_every_private_part_that_is_used():
    from ray._private import node, ray_constants, services, utils, worker

    parts = {
        node.Node: HELPERS,
        ray_constants: ("ENABLE_RAY_CLUSTER",),
        services: ("ConsolePopen",),
        utils: ("set_sigterm_handler",),
        worker: ("print_to_stdstream", "global_worker"),
    }
    assert [name for owner, names in parts.items() for name in names if not hasattr(owner, name)] == []


def test_a_part_is_replaced_within_the_block_only_and_a_missing_one_is_left_out():
    class Owner:
        part = 1

    with _replaced(Owner, "part", 2), _replaced(Owner, "missing", 3):
        assert Owner.part == 2
        assert not hasattr(Owner, "missing")
    assert Owner.part == 1


def test_a_worker_reports_before_its_main_loop(monkeypatch):
    from ray._private.worker import Worker

    done = []
    monkeypatch.setattr(Worker, "main_loop", lambda worker: done.append("loop"))
    before_main_loop(lambda: done.append("report"))
    Worker.main_loop(None)
    assert done == ["report", "loop"]


def test_the_handler_of_sigterm_is_kept():
    def own(*_):
        pass

    before = signal.signal(signal.SIGTERM, own)
    try:
        with ray_internals.own_signals():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
