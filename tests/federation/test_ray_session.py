"""Starting Ray, where it does not start, and when it is joined."""

from contextlib import contextmanager

import pytest
import ray

from promptfleet.config import StorageConfig
from promptfleet.errors import ResourceError
from promptfleet.federation import ray_session as ray_session_module
from promptfleet.federation.ray_session import ray_session, ray_with


def test_a_ray_that_does_not_start_is_one_clear_line(monkeypatch):
    def init(**options):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    message = r"^Ray did not start; has this machine too much to do\? \(The current node timed out during startup\.\)$"
    with pytest.raises(ResourceError, match=message), ray_session(fork_server="off"):
        pytest.fail("there is no Ray")


@pytest.mark.parametrize(
    ("address", "order"), [(None, ["prepare", "ray", "end"]), ("10.0.0.1:6379", ["ray", "prepare", "end"])]
)
def test_a_cluster_is_joined_before_anything_is_prepared_and_its_nodes_asked_once(monkeypatch, address, order):
    done = []

    @contextmanager
    def session(*arguments, **options):
        assert (arguments, options) == ((address,), {"fork_server": "off", "storage": StorageConfig()})
        done.append("ray")
        yield ["nodes"]
        done.append("end")

    monkeypatch.setattr(ray_session_module, "ray_session", session)
    with ray_with(lambda: done.append("prepare"), address, fork_server="off", storage=StorageConfig()) as found:
        assert found == (None, ["nodes"])
    assert done == order
