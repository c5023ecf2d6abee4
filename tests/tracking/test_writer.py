"""The background writer: order, failures, draining."""

import contextlib
import logging
import sqlite3
import sys
import threading
import time

import pytest

from promptfleet import outages
from promptfleet.tracking import writer as writer_module
from promptfleet.tracking.errors import TrackingError
from promptfleet.tracking.outages import persistently
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


def test_a_failing_job_is_one_line_once_and_the_next_one_runs(caplog):
    def write_round(number):
        raise OSError("disk full" if number < 3 else "disk gone")

    seen = []
    with caplog.at_level(logging.INFO), BackgroundWriter() as writer:
        for number in range(4):
            writer.submit(write_round, number)
        writer.submit(seen.append, "next")
    assert seen == ["next"]
    assert [(record.levelname, record.getMessage(), record.exc_info) for record in caplog.records] == [
        ("WARNING", "tracking: MLflow lacks a part of this run: disk full (OSError)", None),
        ("WARNING", "tracking: MLflow lacks a part of this run: disk gone (OSError)", None),
    ]
    assert (writer.failures, writer.last_reason) == (4, "disk gone (OSError)")


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


def database(path):
    connection = sqlite3.connect(path)
    connection.execute("create table if not exists rounds (number integer)")
    connection.commit()
    return connection


def write(path, number):
    """One write with a connection of its own, as MLflow's."""
    with contextlib.closing(sqlite3.connect(path, timeout=0.05)) as connection, connection:
        connection.execute("insert into rounds values (?)", (number,))


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(outages, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(outages, "LONGEST_WAIT_S", 0.05)


@pytest.mark.parametrize("outage", ["locked", "gone"])
def test_what_could_not_be_written_is_written_later_in_order_and_once(tmp_path, impatient, outage, caplog):
    path, away = tmp_path / "store.db", tmp_path / "away.db"
    connection = database(path)
    writer = BackgroundWriter()
    writer.submit(write, path, 1)
    writer.submit(time.sleep, 0)
    while connection.execute("select count(*) from rounds").fetchone() != (1,):
        time.sleep(0.01)
    if outage == "locked":
        connection.execute("begin exclusive")
    else:
        path.rename(away)
    for number in (2, 3, 4):
        writer.submit(write, path, number)
    while "kept for later" not in caplog.text:
        time.sleep(0.01)
    connection.rollback() if outage == "locked" else away.replace(path)
    writer.close()
    assert sqlite3.connect(path).execute("select number from rounds").fetchall() == [(1,), (2,), (3,), (4,)]
    assert (writer.failures, writer.last_reason) == (0, None)
    assert caplog.text.count("kept for later") == 1


def test_a_store_that_never_comes_back_ends_the_waiting_and_is_told_once(tmp_path, impatient, caplog):
    with BackgroundWriter(patience_s=0.1) as writer:
        for number in range(3):
            writer.submit(write, tmp_path / "store.db", number)
    assert "the store did not come back; 3 writes are not in it" in caplog.text
    assert caplog.text.count("kept for later") == 1
    assert (writer.failures, writer.last_reason) == (3, "no such table: rounds")


def test_a_store_that_stays_away_is_waited_for_and_logged_once(impatient, caplog):
    def write():
        raise sqlite3.OperationalError("unable to open database file")

    with pytest.raises(TrackingError, match=r"the store cannot be used \(unable to open database file\)"):
        persistently(write, patience_s=0.2)
    assert len(caplog.records) == 1


def test_late_jobs_run_when_nothing_else_waits_also_those_that_jobs_submit():
    gate, seen = threading.Event(), []
    with BackgroundWriter() as writer:
        writer.submit(gate.wait, 30)
        writer.submit_late(seen.append, "figures of 0")
        for number in range(3):
            writer.submit(seen.append, number)
        writer.submit(writer.submit_late, seen.append, "figures of 1")
        gate.set()
    assert seen == [0, 1, 2, "figures of 0", "figures of 1"]


def test_late_jobs_rest_between_each_other_until_the_writer_is_closed(monkeypatch):
    monkeypatch.setattr(writer_module, "LATE_REST", 1e6)
    noted, seen = threading.Event(), []
    with BackgroundWriter() as writer:
        writer.submit_late(time.sleep, 0.01)
        writer.submit_late(seen.append, "figures of 1")
        while writer._rest_until < 0:  # the first one has not run
            time.sleep(0.01)
        writer.submit(noted.set)
        assert noted.wait(30), "other jobs need no rest"
        assert not seen
    assert seen == ["figures of 1"]


def test_late_jobs_have_no_more_than_their_time_once_the_writer_is_closed():
    gate, seen = threading.Event(), []
    writer = BackgroundWriter()
    writer.submit(gate.wait, 30)
    for number in range(3):
        writer.submit_late(seen.append, number)
    writer.submit(seen.append, "end of the run")
    threading.Timer(0.05, gate.set).start()
    writer.close(late_s=0.0)
    assert seen == ["end of the run"]
    assert (writer.left_out, writer.failures, writer.interrupted) == (3, 0, False)


def test_ctrl_c_within_a_submission_leaves_no_lock_taken():
    def interrupt(frame, event, argument):
        if event == "return" and frame.f_code.co_name == "__enter__":  # has just taken a lock
            raise KeyboardInterrupt
        return interrupt

    seen, writer = [], BackgroundWriter()
    with contextlib.suppress(KeyboardInterrupt):
        sys.settrace(interrupt)
        writer.submit(seen.append, 1)
    sys.settrace(None)
    second = threading.Thread(target=writer.submit, args=(seen.append, 2), daemon=True)
    second.start()
    second.join(5)
    assert not second.is_alive()
    writer.close()
    assert seen[-1] == 2


def test_ctrl_c_leaves_out_late_jobs_and_keeps_the_others(ctrl_c):
    gate, seen = threading.Event(), []
    with BackgroundWriter() as writer:
        writer.submit(gate.wait, 30)
        for number in range(3):
            writer.submit_late(seen.append, number)
        writer.submit(seen.append, "end of the run")
        threading.Timer(0.05, ctrl_c).start()
        threading.Timer(0.1, gate.set).start()
    assert seen == ["end of the run"]
    assert (writer.left_out, writer.failures, writer.last_reason, writer.interrupted) == (3, 0, None, True)


def test_a_second_ctrl_c_waits_for_nothing(ctrl_c):
    gate, seen = threading.Event(), []
    with BackgroundWriter() as writer:
        writer.submit(gate.wait, 30)
        writer.submit(seen.append, "end of the run")
        for seconds in (0.05, 0.1):
            threading.Timer(seconds, ctrl_c).start()
    assert (seen, writer.last_reason, writer.interrupted) == ([], "interrupted", True)
    gate.set()


def test_after_ctrl_c_a_store_that_is_away_is_not_waited_for(ctrl_c, impatient, tmp_path):
    with BackgroundWriter() as writer:
        writer.submit(write, tmp_path / "store.db", 1)
        threading.Timer(0.05, ctrl_c).start()
    assert (writer.failures, writer.last_reason) == (1, "no such table: rounds")


def test_a_backlog_says_how_far_it_is(monkeypatch, caplog):
    monkeypatch.setattr(writer_module, "SLOW_S", 0.01)
    monkeypatch.setattr(writer_module, "PROGRESS_S", 0.01)
    caplog.set_level(logging.INFO)
    gates = [threading.Event() for _ in range(3)]
    writer = BackgroundWriter()
    for gate in gates:
        writer.submit(gate.wait, 30)
    closing = threading.Thread(target=writer.close)
    closing.start()
    for left in (3, 2, 1):  # the end itself counts, too
        while f"MLflow, {left} writes left" not in caplog.text:
            time.sleep(0.01)
        gates[3 - left].set()
    closing.join()
