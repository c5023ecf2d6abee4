"""A comparison as a user runs it, also when its power goes out, and when it grows."""

import json
import os
import signal

import pytest
import yaml

from promptfleet import run_federation
from tests.jobs.job import Job
from tests.samples import write_images

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]
TUNE = {
    "trials": 2,
    "startup_trials": 1,
    "federation": {"seed": 1000, "rounds": 1},
    "methods": {"pfedmoap": {"lambda": {"float": [0.1, 2]}}, "promptfl": {}, "coop": {}},
}


def files(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_killed_resumed_and_grown_every_federation_is_what_it_is_alone(root, tmp_path, ends_by_itself):
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump(TUNE))
    shared = {"clients": 3, "rounds": 2, "local_epochs": 1}
    job = Job(
        *(root, tmp_path, "compare.py", "--methods", "pfedmoap,promptfl", "--seeds", "0", "--name", "mine"),
        *("--tune", "tune.yaml", "--set", "experts=1", *(f"--set={key}={value}" for key, value in shared.items())),
    )
    job.wait_for("compare   1 starts")
    os.kill(job.process.pid, signal.SIGKILL)
    job.wait()

    folder = tmp_path / "results" / "comparisons" / "mine" / "trials" / "000"
    before = files(folder)
    assert folder / "result.json" in before
    add = ("--methods", "+coop", "--tune", "tune.yaml", "--set", "experts=1")
    again = Job(root, tmp_path, "compare.py", "--resume", "mine", *add, "--out", "out", "--reference", "paper")
    assert again.wait() == 0, again.text()
    text = again.text()
    assert files(folder) == before
    assert "compare   0 starts" not in text
    assert "the paper has no figures for digits" in text
    assert "Traceback" not in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("comparison.json", "comparison.md", "comparison.tex", "comparison.csv", "methods.png", "clients.png"),
        *("local_global.png", "reliability.png", "sets.png"),
    }
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert set(found["tuned"]["pfedmoap"]) == {"lambda"}
    assert [one["method"] for one in found["federations"]] == ["pfedmoap", "promptfl", "coop"]
    assert len({one["partition_sha256"] for one in found["federations"]}) == 1
    for one in found["federations"]:
        own = {"experts": 1, **found["tuned"]["pfedmoap"]} if one["method"] == "pfedmoap" else {}
        local = {"method": one["method"], "runtime": {"backend": "local"}, "storage": {"path": str(tmp_path / "local")}}
        assert run_federation({**shared, **own, **local}).state_sha256 == one["state_sha256"]

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/results/mlflow.db")
    experiment = client.get_experiment_by_name("promptfleet").experiment_id
    (parent,) = client.search_runs([experiment], "tags.`promptfleet.key` = 'comparison/mine'")
    nested = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert {run.info.run_name for run in nested} == {
        *("pfedmoap seed 0", "promptfl seed 0", "coop seed 0", "sweep tune pfedmoap")
    }
    assert {run.info.status for run in [parent, *nested]} == {"FINISHED"}
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert names >= {"comparison.json", "comparison.md", "comparison.tex", "figures"}
    again.wait_until_gone(20)
    ends_by_itself(job)


def test_each_domain_is_left_out_once_and_the_same_command_resumes(root, tmp_path, ends_by_itself):
    styles = [
        f"{style}/{split}/{name}/{place}.png"
        for style in ("ink", "pen")
        for split in ("train", "test")
        for name in ("one", "two")
        for place in range(12)
    ]
    write_images(tmp_path / "data" / "imagefolder", styles)
    command = [
        *(root, tmp_path, "compare.py", "--methods", "zero_shot", "--seeds", "0", "--name", "lodo"),
        *("--leave-one-domain-out", "--out", "out", "--set", "dataset=imagefolder", "--set", "clients=2"),
        *("--set", "rounds=1", "--set", "partition.kind=iid", "--set", "data.root=data"),
    ]
    for _ in range(2):
        job = Job(*command)
        assert job.wait() == 0, job.text()
    assert "compare   0 starts" not in job.text()
    table = json.loads((tmp_path / "out" / "domains.json").read_text())
    assert table["domains"] == ["ink", "pen"]
    for domain in table["domains"]:
        found = json.loads((tmp_path / "results" / "comparisons" / f"lodo-{domain}" / "comparison.json").read_text())
        assert {one["config"]["partition"]["held_out_domain"] for one in found["federations"]} == {domain}
        assert (tmp_path / "out" / domain / "comparison.md").exists()
    of = table["accuracy"]["zero_shot"]
    assert of["average"]["mean"] == pytest.approx((of["ink"]["mean"] + of["pen"]["mean"]) / 2)
    ends_by_itself(job)
