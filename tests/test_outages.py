"""One way to wait for the end of an outage: what is retried, for how long, and what is said of it."""

import sqlite3
from itertools import islice, repeat

import pytest

from promptfleet.outages import is_outage, patiently, reason, retried, waits


def failing(times, error):
    """Job that raises ``error`` a given number of times, then returns its result."""
    left = [error] * times

    def job():
        if left:
            raise left.pop()
        return "done"

    return job


def run(job, *, longest=10):
    notes, begun = [], []
    options = {
        "passes": lambda error: isinstance(error, OSError),
        "may_wait": lambda seconds: len(notes) < longest,
        "wait": notes.append,
        "begins": lambda error: begun.append(str(error)),
        "ends": lambda: begun.append("ended"),
    }
    try:
        return retried(job, waits_s=repeat(2.0), **options), notes, begun
    except Exception as error:
        return repr(error), notes, begun


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (failing(0, OSError("away")), ("done", [], [])),
        (failing(3, OSError("away")), ("done", [2.0] * 3, ["away", "ended"])),
        (failing(99, OSError("away")), ("OSError('away')", [2.0] * 10, ["away"])),
        (failing(1, ValueError("wrong")), ("ValueError('wrong')", [], [])),
    ],
)
def test_an_outage_is_waited_for_and_said_once_and_any_other_error_is_raised(job, expected):
    assert run(job) == expected


def test_without_patience_nothing_is_said_of_an_outage():
    assert run(failing(1, OSError("away")), longest=0) == ("OSError('away')", [], [])


def test_waits_double_up_to_a_limit():
    assert list(islice(waits(), 7)) == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]


def test_a_store_is_waited_for_until_patience_ends(monkeypatch, caplog):
    slept = []
    monkeypatch.setattr("promptfleet.outages.time.sleep", slept.append)
    locked = sqlite3.OperationalError("database is locked")
    assert patiently(failing(2, locked), store="the study", patience_s=60) == "done"
    assert slept == [0.5, 1.0]
    assert caplog.messages == ["the study cannot be used (database is locked); retrying for up to 60 s"]
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        patiently(failing(2, locked), store="the study", patience_s=0.1)


def test_an_outage_is_found_below_what_wraps_it():
    from mlflow.exceptions import MlflowException

    def wrapped(inner):
        try:
            try:
                raise inner
            except Exception as error:
                raise MlflowException("as MLflow raises it") from error
        except MlflowException as error:
            return error

    assert is_outage(wrapped(sqlite3.OperationalError("database is locked")))
    assert is_outage(ConnectionRefusedError())
    assert reason(wrapped(sqlite3.OperationalError("database is locked"))) == "database is locked"
    assert reason(wrapped(ValueError("a mistake"))) == "as MLflow raises it (MlflowException)"
    assert not is_outage(wrapped(ValueError("a mistake")))
    assert not is_outage(OSError("disk full"))
