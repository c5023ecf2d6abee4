"""Shared by all tests: a quiet environment, and one local Ray for the whole run."""

import os
import secrets
import signal
import sys
from pathlib import Path

import pytest

from tests.shared_federation import few_shot_config, prepared, small_config, storage  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]

# Ray and MLflow read these when they are imported, so they stand before any test module.
os.environ.update(
    OMP_NUM_THREADS="1",  # models here are tiny: more threads only get in each other's way
    RAY_SCHEDULER_EVENTS="0",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AUTH_MODE="token",  # a token of this run's own keeps others out, and leaves ~/.ray as it is
    RAY_AUTH_TOKEN=secrets.token_hex(32),
    MLFLOW_DISABLE_TELEMETRY="true",
)
# Every job that a test starts would compile the package again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts Ray as slow, and put files with slow tests first: no process ends with a long one alone."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Escape what is not UTF-8 in captured output and logs: a report must reach the process that prints it."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session", autouse=True)
def _unsynced():
    """No file and no database of this process waits for the disk: no power fails while tests run."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def connected(connection, _):
        connection.execute("PRAGMA synchronous = OFF")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        event.listen(Engine, "connect", connected)
        yield
        event.remove(Engine, "connect", connected)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def ray_session():
    """One Ray on this machine, with four logical CPUs and no GPU; actors that a test starts are the test's to end."""
    import ray

    from promptfleet.cluster.ray_internals import without_helpers

    with without_helpers():
        ray.init(
            address="local",  # not the cluster that a test beside this one may be running
            num_cpus=4,
            num_gpus=0,
            object_store_memory=512 * 2**20,
            log_to_driver=False,
            logging_level="ERROR",
        )
    yield ray
    ray.shutdown()


@pytest.fixture
def terminal():
    """A terminal of 80 columns; ``terminal.resize(60)``."""
    from tests.terminals import Terminal

    opened = Terminal()
    yield opened
    opened.close()


@pytest.fixture
def ctrl_c():
    """``ctrl_c()``: what pressing it does to this process, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)
