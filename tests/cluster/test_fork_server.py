"""Workers forked from one process: whose children they are, what they fall back to, and what is left of them."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from promptfleet.cluster.fork_server import launcher, server, session
from promptfleet.cluster.fork_server.session import ForkServerError, start_fork_server, write_launcher
from promptfleet.cluster.session import _fork_server, ray_session
from promptfleet.errors import ResourceError

CLIENTS = """
import json, os, sys, time
from promptfleet.cluster.session import ray_session

class Client:
    def about(self):
        import random, ray
        return {"pid": os.getpid(), "parent": os.getppid(), "group": os.getpgid(0), "torch": "torch" in sys.modules,
                "random": random.random(), "id": ray.NodeID.from_random().hex(), "marked": os.environ.get("MARKED")}

def start(ray, count, **options):
    actors = [ray.remote(Client).options(num_cpus=0.01, **options).remote() for _ in range(count)]
    return actors, ray.get([actor.about.remote() for actor in actors])
"""


def run(script: str, **environment) -> dict:
    """Run a script in its own Python and read the JSON of its last line."""
    code = CLIENTS + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def alive(pids) -> list[int]:
    return [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def assert_gone(pids, within=20.0) -> None:
    deadline = time.monotonic() + within
    while alive(pids):
        assert time.monotonic() < deadline, f"left over: {alive(pids)}"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.ray
def test_workers_are_children_of_the_fork_server_and_of_nobody_once_it_is_killed():
    result = run(
        """
        with ray_session(fork_server="on"):
            import ray, signal
            processes = sorted(ray._private.worker._global_node.all_processes)
            actors, forked = start(ray, 4)
            _, marked = start(ray, 1, runtime_env={"env_vars": {"MARKED": "yes"}})
            ray.kill(actors[0])
            server = forked[0]["parent"]
            time.sleep(1)
            killed_is_gone = not os.path.exists(f"/proc/{forked[0]['pid']}")
            os.kill(server, signal.SIGKILL)
            _, plain = start(ray, 2, runtime_env={"env_vars": {"MARKED": "plain"}})
            same = ray.get([actor.about.remote() for actor in actors[1:]])
        print(json.dumps({"server": server, "forked": forked, "marked": marked, "plain": plain, "same": same,
                          "killed_is_gone": killed_is_gone, "processes": processes}))
        """
    )
    forked, plain = result["forked"], result["plain"]
    assert result["processes"] == ["gcs_server", "raylet"]
    assert {one["parent"] for one in forked + result["marked"]} == {result["server"]}
    assert all(one["torch"] for one in forked)
    assert result["marked"][0]["marked"] == "yes"
    assert len({one["random"] for one in forked}) == len({one["id"] for one in forked}) == 4
    assert all(one["group"] == one["pid"] for one in forked + plain)
    assert result["killed_is_gone"]
    assert not any(one["parent"] == result["server"] or one["torch"] for one in plain)
    assert [one["pid"] for one in result["same"]] == [one["pid"] for one in forked[1:]]
    assert_gone([result["server"], *(one["pid"] for one in forked + plain)])


@pytest.mark.slow
@pytest.mark.ray
def test_actors_of_a_trial_are_forked_too(tmp_path):
    result = run(
        f"""
        with ray_session():
            import ray
            from ray import tune

            def trial(config):
                _, about = start(ray, 2)
                tune.report({{"about": json.dumps([*about, Client().about()])}})

            bundles = tune.PlacementGroupFactory([{{"CPU": 0.1}}] * 3)
            results = tune.Tuner(
                tune.with_resources(trial, bundles),
                run_config=tune.RunConfig(storage_path={str(tmp_path)!r}, verbose=0),
            ).fit()
            _, (outside,) = start(ray, 1)
        print(json.dumps({{"server": outside["parent"], "about": json.loads(results[0].metrics["about"])}}))
        """
    )
    assert [one["parent"] for one in result["about"]] == [result["server"]] * 3


@pytest.mark.slow
@pytest.mark.ray
def test_a_driver_that_is_killed_takes_the_fork_server_and_its_workers_along():
    code = CLIENTS + textwrap.dedent(
        """
        with ray_session(fork_server="on"):
            import ray
            actors, forked = start(ray, 2)
            print(json.dumps([forked[0]["parent"], *(one["pid"] for one in forked)]), flush=True)
            time.sleep(600)
        """
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as driver:
        pids = json.loads(driver.stdout.readline())
        assert alive(pids) == pids
        os.kill(driver.pid, signal.SIGKILL)
    assert_gone(pids)


FAULTY = """
import contextlib, os, runpy, signal, sys, time

sys.modules["__main__"].START_TIMEOUT_S = 5.0
run_path = runpy.run_path

def run_faulty(*arguments, **options):
    for fault in ("dies", "hangs"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.join(os.environ["FAULTS"], fault))
            os.kill(os.getpid(), signal.SIGKILL) if fault == "dies" else time.sleep(600)
    return run_path(*arguments, **options)

runpy.run_path = run_faulty
"""


@pytest.mark.slow
@pytest.mark.ray
def test_workers_that_die_or_hang_before_they_are_up_are_forked_again(tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY)
    result = run(
        """
        from promptfleet.cluster.fork_server import session
        session.CLIENT_MODULES += ("faulty",)
        began = time.monotonic()
        with ray_session(fork_server="on"):
            import ray
            _, forked = start(ray, 4)
        print(json.dumps({"parents": [one["parent"] for one in forked], "seconds": time.monotonic() - began}))
        """,
        PYTHONPATH=str(tmp_path),
        FAULTS=str(tmp_path),
    )
    assert {path.name for path in tmp_path.iterdir()} >= {"dies", "hangs"}
    assert len(set(result["parents"])) == 1
    assert result["seconds"] < 60  # Ray's registration time-out


@pytest.mark.slow
def test_a_server_whose_workers_would_draw_the_same_ids_does_not_serve(monkeypatch, tmp_path):
    """The cause of one start in sixty that took a minute in a prototype: it imported ray.tune, with remote classes."""
    monkeypatch.setattr(session, "CLIENT_MODULES", ("ray.tune",))
    wanted = r"^a module it imports draws ids of Ray, which workers would repeat$"
    with start_fork_server(tmp_path) as fork_server:
        with pytest.raises(ForkServerError, match=wanted):
            fork_server.wait_until_ready()
        assert launcher.ask({}, fork_server._environment[launcher.SOCKET]) is None


def test_a_launcher_that_gets_no_answer_starts_its_worker_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "ANSWER_TIMEOUT_S", 0.1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "socket"))
        silent.listen()
        assert launcher.ask({"argv": []}, str(tmp_path / "socket")) is None
    assert launcher.ask({"argv": []}, str(tmp_path / "none")) is None


@pytest.mark.slow
def test_a_server_that_came_up_is_ended_with_its_block(tmp_path):
    with start_fork_server(tmp_path) as fork_server:
        assert alive([fork_server.pid])
    assert_gone([fork_server.pid])


def test_a_process_with_threads_does_not_serve(monkeypatch):
    monkeypatch.setattr(server.os, "listdir", lambda path: ["1", "2"] if path.endswith("task") else [])
    assert server.unsafe() == "the fork server has 2 threads"


def test_a_process_that_has_started_cuda_does_not_serve(monkeypatch):
    monkeypatch.setattr(server.os, "listdir", lambda path: ["1"] if path.endswith("task") else [])
    assert server.unsafe() is None
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert server.unsafe() == "the fork server has started CUDA"
    refused = server.Server._fork(None, None)  # asked again before each fork
    assert refused is False


def test_a_server_that_ends_while_it_starts_is_an_error_that_says_why(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(session, "WORKER_MODULES", ("no_such_module",))
    wanted = r"^it ended while it started: ModuleNotFoundError: No module named 'no_such_module'$"
    with start_fork_server(tmp_path) as fork_server, pytest.raises(ForkServerError, match=wanted):
        fork_server.wait_until_ready()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["types", "random", "queue"])
def test_files_in_the_working_folder_do_not_take_the_place_of_pythons_own(monkeypatch, tmp_path, name):
    (tmp_path / f"{name}.py").write_text("raise SystemExit('not the one that was meant')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "WORKER_MODULES", (name,))
    monkeypatch.setattr(session, "CLIENT_MODULES", ("ray",))
    (tmp_path / "of the server").mkdir()
    with start_fork_server(tmp_path / "of the server") as fork_server:
        fork_server.wait_until_ready()


@pytest.mark.parametrize("folder", ["a space", "it's", "x" * 200, '$HOME `date` "quoted"', "é"])
def test_the_stand_in_runs_whatever_the_interpreters_path_is(monkeypatch, tmp_path, folder):
    interpreter = tmp_path / folder / "python"
    interpreter.parent.mkdir()
    interpreter.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    asked = ["-IS", "-c", "import sys; print(sys.argv[1:], sys.executable)", "one argument", "*"]
    environment = {launcher.PYTHON: str(interpreter)}
    done = subprocess.run([write_launcher(tmp_path), *asked], env=environment, capture_output=True, text=True)
    assert done.stdout == f"{asked[3:]} {interpreter}\n", done.stderr


def test_a_folder_where_no_program_may_run_is_told_from_one_attempt(monkeypatch, tmp_path):
    monkeypatch.setattr(
        Path, "chmod", lambda *_: None
    )  # what the kernel says of it is the same as where it is mounted noexec
    with pytest.raises(ForkServerError, match=rf"^programs cannot be run in {tmp_path}: is it mounted noexec\?$"):
        write_launcher(tmp_path)


def test_a_stand_in_that_does_not_work_is_not_relied_on(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(session, "TRY_WITH", "raise ImportError('no Python today')")
    with caplog.at_level("INFO", logger="promptfleet"), ExitStack() as stack:
        assert _fork_server("auto", tmp_path, stack) is None
    assert "cannot be run: ImportError: no Python today" in caplog.text
    with pytest.raises(ResourceError, match=r"no fork server \(.*no Python today\); use off$"), ExitStack() as stack:
        _fork_server("on", tmp_path, stack)


def test_another_ray_is_refused_when_asked_for(monkeypatch):
    monkeypatch.setattr(session, "other_version", lambda: "9.9.9")
    wanted = r"^runtime\.fork_server=on: .* measured with Ray 2\.60\.0, this is 9\.9\.9\); use off$"
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ResourceError, match=wanted), ray_session(fork_server="on"):
        pass


def test_where_none_is_asked_for_another_ray_starts_its_workers_the_plain_way(monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(session, "other_version", lambda: "9.9.9")
    with caplog.at_level("INFO", logger="promptfleet"), ExitStack() as stack:
        assert _fork_server("auto", tmp_path, stack) is None
    assert "without a fork server: it was measured with Ray 2.60.0, this is 9.9.9" in caplog.text


def test_a_cluster_elsewhere_starts_its_workers_itself(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    wanted = r"the Ray at 10\.0\.0\.1:6379 starts its workers itself"
    with pytest.raises(ResourceError, match=wanted), ray_session("10.0.0.1:6379", fork_server="on"):
        pass


WORKER = ["setup_worker.py", "/ray/default_worker.py", "--node-ip-address=127.0.0.1", "--language=PYTHON"]


@pytest.mark.parametrize(
    ("arguments", "forked"),
    [
        (WORKER, True),
        ([*WORKER, '--serialized-runtime-env-context={"env_vars": {"A": "b"}}'], True),
        ([*WORKER, '--serialized-runtime-env-context={"py_executable": "/usr/bin/python3"}'], True),
        ([*WORKER, '--serialized-runtime-env-context={"py_executable": "/other/python"}'], False),
        ([*WORKER, '--serialized-runtime-env-context={"command_prefix": ["nsys"]}'], False),
        ([*WORKER, "--worker-type=SPILL_WORKER"], False),
        (["-u", "dashboard/agent.py"], False),
    ],
)
def test_only_plain_python_workers_are_asked_for(arguments, forked):
    request = launcher.worker_request(arguments, "/usr/bin/python3")
    assert (request is not None) is forked
    if forked:
        assert request["argv"] == ["/ray/default_worker.py", "--node-ip-address=127.0.0.1"]
        assert ("A" in request["env"]) is ("env_vars" in arguments[-1])
