"""Jobs run in this process, and what is left of the Ray of those that were killed, which ends by itself, but late."""

import runpy
import sys

import pytest


@pytest.fixture
def run_here(monkeypatch, capsys, tmp_path, root):
    """``run_here("tune.py", ...)`` runs a job's main in an empty folder: (status, stdout, stderr)."""

    def run(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            runpy.run_path(str(root / "jobs" / name), run_name="__main__")
        return exit_info.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def ends_by_itself():
    """``ends_by_itself(job)``: before the test run is over, none of the job's processes may be left.

    Ray's agents notice the death of their session after more than a minute; nobody waits for that meanwhile.
    """
    jobs = []
    yield jobs.append
    for job in jobs:
        job.wait_until_gone(180)
