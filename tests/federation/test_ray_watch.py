"""Whether somebody is still there, told from sockets; a real session dies in tests/jobs/test_train_job.py."""

import socket
import time

from promptfleet.federation import ray_watch
from promptfleet.federation.ray_watch import unreachable


def test_everybody_answers_or_who_does_not_is_named_at_once(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        addresses = [one.getsockname(), other.getsockname()]
        assert unreachable(addresses) is None
    started = time.monotonic()
    assert unreachable(addresses) == f"nobody listens at 127.0.0.1:{addresses[0][1]}"
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
