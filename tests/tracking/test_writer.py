"""The background writer: order, failures, draining."""

import logging
import threading
import time

import pytest

from promptfleet.tracking.writer import BackgroundWriter


def test_jobs_run_in_order_in_one_other_thread():
    seen = []
    with BackgroundWriter() as writer:
        for number in range(50):
            writer.submit(lambda n: seen.append((n, threading.get_ident())), number)
    assert [number for number, _ in seen] == list(range(50))
    (thread,) = {thread for _, thread in seen}
    assert thread != threading.get_ident()


def test_submit_does_not_wait_and_close_does():
    gate, done = threading.Event(), []
    writer = BackgroundWriter()
    writer.submit(gate.wait, 30)
    for _ in range(3):
        writer.submit(lambda: (time.sleep(0.01), done.append(1)))
    assert done == []
    gate.set()
    writer.close()
    assert done == [1, 1, 1]


def test_a_failing_job_is_told_and_the_next_one_runs(caplog):
    def write_round():
        raise OSError("disk full")

    seen = []
    with caplog.at_level(logging.WARNING), BackgroundWriter() as writer:
        writer.submit(write_round)
        writer.submit(seen.append, "next")
    assert seen == ["next"]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "write_round failed: disk full" in record.getMessage()
    assert record.exc_info[0] is OSError
    assert writer.failures == 1


def test_closing_twice_is_fine_and_submitting_afterwards_is_not():
    writer = BackgroundWriter()
    writer.close()
    writer.close()
    with pytest.raises(RuntimeError, match="writer is closed"):
        writer.submit(print)


def test_leaving_with_an_exception_still_drains():
    seen = []

    def sweep():
        with BackgroundWriter() as writer:
            writer.submit(seen.append, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep()
    assert seen == [1]
