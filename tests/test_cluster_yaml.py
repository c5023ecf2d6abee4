"""cluster.yaml and clusters/local.yaml pass Ray's own offline check, and hold what their comments promise."""

import copy
import subprocess

import click
import jsonschema
import pytest
import yaml


@pytest.fixture(scope="module")
def cluster(root):
    """The one on AWS."""
    return yaml.safe_load((root / "cluster.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def local(root):
    """The one of machines at hand."""
    return yaml.safe_load((root / "clusters/local.yaml").read_text(encoding="utf-8"))


@pytest.fixture(params=["cluster", "local"])
def each(request):
    return request.getfixturevalue(request.param)


def check(cluster):
    """Do the first step of ``ray up``, before it talks to the cloud; return the cluster with Ray's defaults."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    return prepared


def commands(cluster):
    return [command for key, value in cluster.items() if key.endswith("_commands") for command in value]


def test_ray_accepts_the_one_on_aws_whose_nodes_name_their_resources(cluster):
    types = check(cluster)["available_node_types"]
    assert cluster["head_node_type"] in types
    assert all(node["resources"]["CPU"] > 0 and "GPU" in node["resources"] for node in types.values())


def test_ray_accepts_the_local_one_whose_workers_all_start(local):
    prepared = check(local)
    workers = len(local["provider"]["worker_ips"])
    assert (prepared["max_workers"], local["min_workers"]) == (workers, workers)
    (node,) = prepared["available_node_types"].values()
    assert node["min_workers"] == workers


def test_ray_refuses_the_local_one_without_a_head(local):
    provider = {key: value for key, value in local["provider"].items() if key != "head_ip"}
    with pytest.raises(click.ClickException, match="head_ip"):
        check({**local, "provider": provider})


def test_the_local_one_turns_off_the_autoscaler_that_starts_no_local_worker(local):
    (start,) = [command for command in local["head_start_ray_commands"] if "ray start" in command]
    assert start.startswith("RAY_enable_autoscaler_v2=0 ray start --head")


@pytest.mark.parametrize(
    ("where", "key", "value", "message"),
    [
        ([], "idle_timeout", 5, "idle_timeout"),
        (["auth"], "user", "ubuntu", "user"),
        (["available_node_types", "worker.gpu"], "min_worker", 0, "min_worker"),
        (["available_node_types", "worker.gpu", "resources"], "GPU", 0.5, "integer"),
    ],
)
def test_ray_refuses_a_wrong_entry(cluster, where, key, value, message):
    spoiled = copy.deepcopy(cluster)
    section = spoiled
    for name in where:
        section = section[name]
    section[key] = value
    with pytest.raises(jsonschema.ValidationError, match=message):
        check(spoiled)


def test_ray_refuses_an_unknown_head_type(cluster):
    with pytest.raises(ValueError, match="head_node_type"):
        check({**cluster, "head_node_type": "head.other"})


def test_gpu_workers_scale_from_zero_and_the_head_has_no_gpu(cluster):
    types = dict(check(cluster)["available_node_types"])
    assert all(node["resources"].get("CPU", 0) > 0 for node in types.values())
    head = types.pop(cluster["head_node_type"])
    assert head["resources"].get("GPU", 0) == 0
    assert head["max_workers"] == 0
    assert types
    for worker in types.values():
        assert worker["min_workers"] == 0
        assert worker["resources"]["GPU"] > 0
        assert 0 < worker["max_workers"] <= cluster["max_workers"]


def test_only_workers_are_spot_and_nodes_are_terminated(cluster):
    types = dict(cluster["available_node_types"])
    head = types.pop(cluster["head_node_type"])
    assert "InstanceMarketOptions" not in head["node_config"]
    assert all(worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot" for worker in types.values())
    assert cluster["provider"]["cache_stopped_nodes"] is False
    assert cluster["idle_timeout_minutes"] <= 10


def test_all_nodes_run_the_same_image(cluster):
    assert len({node["node_config"]["ImageId"] for node in cluster["available_node_types"].values()}) == 1


def test_dashboard_listens_on_loopback_and_nodes_ask_for_a_token(each):
    starts = [command for command in commands(each) if "ray start --head" in command]
    assert len(starts) == 1
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert not [command for command in commands(each) if "0.0.0.0" in command]
    assert not each["provider"].get("security_group"), "no port but ssh is opened"
    assert any("RAY_AUTH_MODE=token" in command for command in each["setup_commands"])
    assert "~/.ray/auth_token" in each["file_mounts"]


def test_nodes_install_the_pinned_versions_without_docker(each):
    assert not each.get("docker")
    assert "make -C ~/promptfleet setup" in each["setup_commands"]
    assert each["file_mounts"]["~/promptfleet"] == "."


def test_excluded_folders_leave_the_package_whole(each, root):
    assert not [pattern for pattern in each["rsync_exclude"] if (root / "platform/promptfleet" / pattern).exists()]
    ignored = (root / ".gitignore").read_text(encoding="utf-8").split()
    assert "data/" not in ignored, "it would keep platform/promptfleet/data from the nodes; write /data/"


def test_commands_are_bash(each):
    """Also catches a command that YAML cut at ` #`, if that left a quote open."""
    assert len(commands(each)) > 5
    for command in commands(each):
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{command}: {done.stderr}"
