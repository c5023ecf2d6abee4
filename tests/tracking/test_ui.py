"""``make ui`` and the page that its link opens, in a browser where there is one."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from promptfleet.tracking.errors import TrackingError
from promptfleet.tracking.sweep_run import SweepRun
from promptfleet.tracking.ui import serve
from promptfleet.trial_records import TrialRecord
from tests.tracking.values import make_config, make_result

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=2400,900 --virtual-time-budget=60000 --dump-dom"
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def sweep(store):
    """A sweep of two trials whose accuracies are known."""
    search = {"space": {"experts": {"int": [1, 2]}, "prompt_lr": {"float": [0.01, 0.1]}}}
    run = SweepRun.start(store, make_config(), key="sweep/looked-at", name="looked-at", search=search)
    for number, rounds in enumerate((1, 2)):
        params = {"experts": rounds, "prompt_lr": 0.0123}
        config = make_config(rounds=rounds, **params)
        run.child(number, params, config).finish(make_result(config, rounds=rounds))
    records = [TrialRecord(n, "complete", {"experts": n + 1}, 0.2, 2, test_accuracy=0.1, seconds=1) for n in (0, 1)]
    run.finish(records)
    return run


@pytest.fixture(scope="module")
def served(store, sweep, root, tmp_path_factory):
    """Return the output of ``make ui`` once it shows its link, by stream; it runs until the tests are over."""
    folder = tmp_path_factory.mktemp("ui")
    (folder / ".promptfleet-ready").touch()
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "bin" / "python").chmod(0o755)
    ready = folder / ".promptfleet-ready"
    make = ["make", "-s", "-o", str(ready), "ui", f"VENV={folder}", f"RESULTS={store.path}", f"PORT={free_port()}"]
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(
            make, cwd=root, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if "Ctrl-C" in line:
            break
    yield lines, (folder / "stderr").read_text()
    os.killpg(process.pid, signal.SIGINT)
    process.wait(60)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_ui_prints_links_once_the_server_answers_and_nothing_else(served, store):
    lines, errors = served
    assert lines[-1] == "(Ctrl-C ends it)", errors
    assert re.sub(r":\d+/", ":5000/", lines[0]) == f"sweep-looked-at: {store.ui_address('sweep-looked-at')}"
    assert all(re.fullmatch(r"[\w.-]+: http://127\.0\.0\.1:\d+/#/experiments/\S+", line) for line in lines[:-1])
    assert [line for line in errors.splitlines() if "starting MLflow" not in line] == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_link_opens_a_sorted_table_with_accuracies_and_searched_keys(served, store, tmp_path):
    link = served[0][0].partition(": ")[2]
    command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={tmp_path}", link]
    page = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
    text = re.sub(r"<[^>]+>", " ", page)
    accuracies = [
        repr(store.find_run(f"sweep/looked-at/trial/{number}").metrics[f"final/{name}_accuracy"])
        for number in (0, 1)
        for name in ("val", "test")
    ]
    for shown in ("final/val_accuracy", "final/test_accuracy", "experts", "prompt_lr", "0.0123", *accuracies):
        assert shown in text, text[-2000:]
    assert 0 < text.find("trial 01  K=2") < text.find("trial 00  K=1"), "the higher validation accuracy first"


def test_a_port_that_is_taken_is_one_line_and_names_another(store):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(TrackingError, match=rf"^port {port} is taken, .*as in 'make ui PORT=\d+'$"):
            serve(store.path, port, lambda _: None)


@pytest.mark.parametrize("port", [0, -1, 65536, 999999])
def test_a_port_that_is_none_is_refused(store, port):
    with pytest.raises(TrackingError, match=f"^port {port}: choose one from 1024 to 65535"):
        serve(store.path, port, lambda _: None)


def test_without_a_store_there_is_nothing_to_show(tmp_path):
    with pytest.raises(
        TrackingError, match=r"there is nothing to show yet, .*mlflow\.db does not exist: run 'make sweep'"
    ):
        serve(tmp_path, 5000, lambda _: None)
    assert list(tmp_path.iterdir()) == []
