"""Programs beside the cluster files: one that waits for GPUs, and one that leaves machines as they were."""

import os
import runpy
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

BASHRC = "# mine\nexport EDITOR=vi PATH=$HOME/bin:$PATH\nalias promptfleet='cd ~/promptfleet'"


@pytest.fixture
def machines(tmp_path, root, monkeypatch):
    """Homes of a head and of a worker, which ``ssh`` reaches, and a cluster's file."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {
        "ssh": 'for last in "$@"; do host=$address; address=$last; done\nHOME=$HOMES/$host exec bash -c "$last"',
        "ray": 'echo "ray $@ on $(basename $HOME)" >> $HOMES/calls',
    }.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    for host in ("10.0.0.1", "10.0.0.2"):
        (tmp_path / host / "promptfleet/.venv/bin").mkdir(parents=True)
        (tmp_path / host / "promptfleet/.venv/bin/ray").symlink_to(programs / "ray")
    (programs / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("HOMES", str(tmp_path))
    cluster = yaml.safe_load((root / "clusters/local.yaml").read_text())
    cluster["provider"] |= {"head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    return tmp_path


def stop(root, monkeypatch, cluster) -> int:
    monkeypatch.setattr(sys, "argv", ["stop.py", str(cluster)])
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_path(str(root / "clusters/stop.py"), run_name="__main__")
    return exit_info.value.code


def set_up(home, root) -> None:
    """Run what ``ray up`` does to ~/.bashrc, twice as for a cluster that is updated."""
    *_, command = yaml.safe_load((root / "clusters/local.yaml").read_text())["setup_commands"]
    for _ in range(2):
        subprocess.run(["bash", "-c", command], env={**os.environ, "HOME": str(home)}, check=True)


@pytest.mark.parametrize("before", [f"{BASHRC}\n", BASHRC, None], ids=["whole", "without a last line break", "none"])
def test_bashrc_is_in_the_end_as_it_was(machines, root, monkeypatch, before):
    home = machines / "10.0.0.1"
    if before is not None:
        (home / "dotfiles").write_text(before)
        (home / ".bashrc").symlink_to("dotfiles")
    set_up(home, root)
    added = "export PATH=$HOME/promptfleet/.venv/bin:$PATH RAY_AUTH_MODE=token"
    lines = [] if before is None else BASHRC.splitlines()
    assert (home / ".bashrc").read_text().splitlines() == [*lines, added]
    assert stop(root, monkeypatch, machines / "cluster.yaml") == 0
    assert (home / ".bashrc").is_symlink() is (before is not None)
    assert (home / ".bashrc").exists() is (before is not None)
    assert before is None or (home / ".bashrc").read_text() == f"{BASHRC}\n"
    calls = (machines / "calls").read_text()
    assert calls.splitlines()[0].startswith("ray down --yes ")
    assert calls.splitlines()[1:] == ["ray stop on 10.0.0.1", "ray stop on 10.0.0.2"]


def test_a_machine_that_does_not_answer_is_named(machines, root, monkeypatch, capsys):
    shutil.rmtree(machines / "programs")
    (machines / "programs").mkdir()
    for name, status in (("ssh", 255), ("ray", 0)):
        (machines / "programs" / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (machines / "programs" / name).chmod(0o755)
    assert stop(root, monkeypatch, machines / "cluster.yaml") == 2
    assert "not stopped on 10.0.0.1, 10.0.0.2: run this again when they answer" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cluster.yaml", "none.yaml", "Makefile"])
def test_another_file_is_one_line(root, monkeypatch, capsys, name):
    assert stop(root, monkeypatch, root / name) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{name}: no cluster of provider local" in error


@pytest.mark.ray
def test_the_wish_for_gpus_ends_with_the_process_that_has_it(root, ray_session):
    from ray._private.worker import global_worker
    from ray.util import placement_group_table

    before = set(placement_group_table())

    def states():
        return [group["state"] for key, group in placement_group_table().items() if key not in before]

    command = [sys.executable, str(root / "clusters/wait_for_gpus.py"), "--address", global_worker.node.gcs_address]
    with subprocess.Popen(command) as waiting:
        wait_until(lambda: states() == ["PENDING"])
        waiting.send_signal(signal.SIGKILL)
    wait_until(lambda: states() in ([], ["REMOVED"]))


def wait_until(happened) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)
