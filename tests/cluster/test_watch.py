"""Processes that end, noticed from sockets; a real session dies in tests/jobs/test_train_job.py."""

import socket
import subprocess
import time
from contextlib import closing

from promptfleet.cluster import watch as ray_watch
from promptfleet.cluster.watch import Ends, unreachable


def test_everybody_answers_or_who_does_not_is_named_at_once(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        addresses = [one.getsockname(), other.getsockname()]
        assert unreachable(addresses) is None
    started = time.monotonic()
    assert unreachable(addresses) == f"no process listens at 127.0.0.1:{addresses[0][1]}"
    assert time.monotonic() - started < 1


def test_a_network_that_comes_back_is_waited_for_and_one_that_does_not_is_not(monkeypatch):
    answers = [OSError("No route to host")] * 2

    def connect(address, timeout):
        if answers:
            raise answers.pop()
        return socket.socket()

    monkeypatch.setattr(ray_watch.socket, "create_connection", connect)
    monkeypatch.setattr(ray_watch, "CHECK_EVERY_S", 0.01)
    assert unreachable([("far", 1)]) is None
    monkeypatch.setattr(ray_watch, "PATIENCE_S", 0.02)
    answers = [OSError("No route to host")] * 100
    assert unreachable([("far", 1)]) == "far:1: No route to host"


def test_the_end_of_a_process_is_noticed_at_once_and_once():
    with closing(Ends()) as ends, subprocess.Popen(["sleep", "60"]) as other:
        with subprocess.Popen(["sleep", "60"]) as agent:
            names = {agent.pid: "agent", other.pid: "raylet"}
            assert ends.wait(names, 0.0) is None
            agent.kill()
            assert ends.wait(names, 60.0) == "its agent has ended"
        assert ends.wait(names, 0.0) is None
        other.kill()
        assert ends.wait({}, 60.0) == "its raylet has ended"


def test_a_process_that_had_ended_before_is_no_news():
    with closing(Ends()) as ends, subprocess.Popen(["true"]) as process:
        process.wait()
        assert ends.wait({process.pid: "agent"}, 0.0) is None
