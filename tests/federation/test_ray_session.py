"""Starting Ray, where it does not start."""

import pytest
import ray

from promptfleet.errors import ResourceError
from promptfleet.federation.ray_session import ray_session


def test_a_ray_that_does_not_start_is_one_clear_line(monkeypatch):
    def init(**options):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    message = r"^Ray did not start; has this machine too much to do\? \(The current node timed out during startup\.\)$"
    with pytest.raises(ResourceError, match=message), ray_session(fork_server="off"):
        pytest.fail("there is no Ray")
