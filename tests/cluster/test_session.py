"""Starting Ray, where it does not start, and when it is joined."""

import re
import sys
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import ray

from promptfleet.cluster import session as ray_session_module
from promptfleet.cluster.session import ray_session, ray_with
from promptfleet.cluster.start_failures import why_not_started
from promptfleet.config import StorageConfig
from promptfleet.errors import ResourceError


def test_a_ray_that_does_not_start_is_one_clear_line(monkeypatch):
    def init(**options):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    message = r"^Ray did not start; has this machine too much to do\? \(The current node timed out during startup\.\)$"
    with pytest.raises(ResourceError, match=message), ray_session(fork_server="off"):
        pytest.fail("there is no Ray")


def test_a_command_line_that_is_no_utf_8_is_refused_before_ray_is_started(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("it was started"))
    monkeypatch.setattr(sys, "argv", ["train.py", "--set", "data.folder=caf\udce9"])
    message = r"^data\.folder=caf\\xe9: Ray cannot start from a command line that is no UTF-8; rename"
    for address in (None, "auto"):
        with pytest.raises(ResourceError, match=message), ray_session(address, fork_server="off"):
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


FATAL = "[2026-11-28 05:52:43,048 C 6728 6728] (gcs_server) gcs_server.cc:474: Check failed: Too many open files"
BUG = (
    "An unexpected system state has occurred. You have likely discovered a bug in Ray. Please report this issue and "
    "we'll work with you to fix it. Check failed: Timed out waiting for file a"
)


@pytest.mark.parametrize(
    ("error", "log", "reason"),
    [
        ("The current node timed out during startup.", FATAL, r": Check failed: Too many open files"),
        ("The requested object store memory size is greater than\nthe memory.", "", r": The requested .* than"),
        (
            "The current node timed out.",
            FATAL.replace(" C ", " I "),
            r"; has this machine too much to do\? \(The .*\.\)",
        ),
        (
            "Ray is not there",
            FATAL.replace("Check failed: Too many open files", BUG),
            r"; has this machine too much to do\? \(Check failed: Timed out waiting for file a\)",
        ),
    ],
)
def test_the_true_reason_is_told_first(tmp_path, error, log, reason):
    logs = tmp_path / "session_2026/logs"
    logs.mkdir(parents=True)
    (logs / "gcs_server.out").write_text(f"a line before\n{log}\na line after\n")
    line = why_not_started(Exception(error), tmp_path)
    assert re.fullmatch(rf"Ray did not start{reason}( \(train\.py can do without Ray: .*\))?", line)
    assert ("without Ray" in line) is ("too much to do" not in line)


def test_what_ray_prints_whatever_its_log_level_does_not_reach_users(monkeypatch, capsys):
    from ray._private import worker

    from promptfleet.cluster import storage_nodes as ray_storage

    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)  # to be put back
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray_storage, "nodes_with_storage", lambda storage: [])
    stopped = threading.Event()

    def poll():
        stopped.set()
        return None, {"job_id": None, "error_message": "WARNING: 9 PYTHON worker processes have been started"}

    subscriber = SimpleNamespace(subscribe=lambda: None, poll=poll)
    driver = SimpleNamespace(gcs_error_subscriber=subscriber, current_job_id=ray.JobID.nil())
    with ray_session():
        worker.listen_error_messages(driver, stopped)
    assert capsys.readouterr() == ("", "")
