"""A cluster of two nodes, both on this machine and its disk: what reaches the other one, and how often."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from promptfleet.cluster.nodes import Node
from promptfleet.cluster.storage_nodes import (
    ABSENT,
    _answer,
    _check_all_or_only_this,
    _look,
    _look_there,
    is_shared,
    where_trials_run,
)
from promptfleet.config import StorageConfig
from promptfleet.errors import ResourceError

ADDRESSES = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}
SCRIPT = """
import json, sys, tempfile
from dataclasses import replace
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from ray.experimental import get_object_locations
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from promptfleet.config import StorageConfig
from promptfleet.federation.on_ray.actors import ClientActor
from promptfleet.federation.prepare import prepare
from promptfleet.cluster.node_files import NodeFile
from promptfleet.federation.on_ray.fleet import put_frozen
from promptfleet.cluster.storage_nodes import is_shared, nodes_with_storage
from promptfleet.federation.settings import federation_config

class Client(ClientActor):
    def features(self):
        files = self._frozen.files_here()
        return str(files["features"]), files["features"].stat().st_ino, float(self._store.features.sum())

storage = sys.argv[1]
prepared = prepare(federation_config({"storage": {"path": storage}}))
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 2**28})
other = cluster.add_node(num_cpus=1, object_store_memory=2**28)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
frozen = put_frozen(prepared)
strategy = NodeAffinitySchedulingStrategy(other.node_id, soft=False)
clients = [ray.remote(Client).options(num_cpus=0, scheduling_strategy=strategy).remote(frozen) for _ in range(3)]
opened = ray.get([client.features.remote() for client in clients])
nodes = nodes_with_storage(StorageConfig(path=storage))
at_address = nodes_with_storage(StorageConfig(path=Path(storage).with_name("home").as_uri()))
larger = replace(NodeFile.of(prepared.features, ray.get_runtime_context().get_node_id()), bytes=10**6, written_ns=1)
try:
    ray.get(ray.remote(NodeFile.here).options(num_cpus=0, scheduling_strategy=strategy).remote(larger))
    changed = "nothing was raised"
except ray.exceptions.RayError as error:
    changed = str(error)
print(json.dumps({
    "opened": opened,
    "original": [str(prepared.features), float(prepared.open_store().features.sum())],
    "weights_on": sorted(get_object_locations([frozen])[frozen]["node_ids"]),
    "nodes": sorted(node["NodeID"] for node in ray.nodes()),
    "shared": is_shared(nodes),
    "at_address": [node.has_storage for node in at_address],
    "left_there": [path.name for path in Path(storage).with_name("home").iterdir()],
    "left_in_storage": [path.name for path in Path(storage).iterdir()],
    "changed": changed,
}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    (folder / "copies").mkdir()
    environment = {**os.environ, "TMPDIR": str(folder / "copies"), "RAY_TMPDIR": "/tmp"}
    command = [sys.executable, "-c", SCRIPT, str(folder / "storage")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "copies": folder / "copies"}


@pytest.mark.ray
def test_all_processes_of_another_node_map_one_copy_of_the_features(found):
    original, total = found["original"]
    paths, inodes, sums = zip(*found["opened"], strict=True)
    assert len(paths) == 3
    assert len(set(paths)) == len(set(inodes)) == 1
    assert Path(paths[0]) != Path(original)
    assert Path(paths[0]).read_bytes() == Path(original).read_bytes()
    assert set(sums) == {total}
    assert [path.name for path in found["copies"].rglob("*.arrow")] == [Path(paths[0]).name]
    assert list(found["copies"].rglob("*.lock")) == list(found["copies"].rglob("*.partial")) == []


@pytest.mark.ray
def test_frozen_weights_are_in_each_nodes_object_store_once(found):
    assert found["weights_on"] == found["nodes"]
    assert len(found["nodes"]) == 2


@pytest.mark.ray
def test_a_file_that_is_not_what_it_was_is_not_copied(found):
    assert "has changed while it was copied to another node" in found["changed"]


@pytest.mark.ray
def test_nodes_of_one_disk_share_the_storage_and_leave_nothing_in_it(found):
    assert found["shared"] is True
    assert found["left_in_storage"] == ["features"]


@pytest.mark.ray
def test_nodes_that_reach_an_address_have_none_of_its_files_and_leave_nothing_there(found):
    assert found["at_address"] == [False, False]
    assert found["left_there"] == []


def test_a_node_that_cannot_use_an_address_says_why(tmp_path, monkeypatch):
    storage = StorageConfig(path=(tmp_path / "home").as_uri())
    assert _look_there(storage, ".reachable-1") == "it sees another place"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".reachable-1").touch()
    assert _look_there(storage, ".reachable-1") == ""
    assert [path.name for path in (tmp_path / "home").iterdir()] == [".reachable-1"]
    assert "Unrecognized filesystem type" in _look_there(StorageConfig(path="gopher://x/y"), ".reachable-1")
    monkeypatch.setattr(ray, "get", lambda ref, timeout: ref)
    with pytest.raises(ResourceError) as caught:
        _answer("AWS Error ACCESS_DENIED", "10.0.0.2", "s3://bucket/one")
    assert str(caught.value) == "storage.path=s3://bucket/one: node 10.0.0.2 cannot use it (AWS Error ACCESS_DENIED)"


def test_a_node_looks_for_the_folder_and_writes_to_it(tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    assert _look(marker) == ABSENT
    marker.touch()
    assert _look(marker) == ""
    assert list(tmp_path.iterdir()) == [marker]

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    assert _look(marker) == "Permission denied"


@pytest.mark.parametrize("answers", [{"a": "", "b": "", "c": ""}, {"a": "", "b": ABSENT, "c": ABSENT}, {"a": ""}])
def test_a_folder_of_all_nodes_or_of_this_one_will_do(answers):
    _check_all_or_only_this(answers, "a", ADDRESSES, Path("/results"))


def test_trials_stay_on_this_node_if_it_has_a_cpu_for_them(monkeypatch):
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.1")
    other = Node(cpus=8, gpus=1, address="10.0.0.2", has_storage=False)
    nodes, storage = [Node(cpus=4, gpus=0, address="10.0.0.1"), other], StorageConfig()
    assert where_trials_run(nodes, storage) == {"node:10.0.0.1": 0.001}
    assert where_trials_run(nodes, StorageConfig(path="s3://bucket/one")) == {}
    assert where_trials_run([replace(node, has_storage=True) for node in nodes], storage) == {}
    with pytest.raises(ResourceError, match=r"disk of node 10\.0\.0\.1 alone.*that node offers no CPU"):
        where_trials_run([Node(cpus=0, gpus=0, address="10.0.0.1"), other], storage)


def test_only_a_folder_of_several_nodes_is_shared():
    this, other = Node(cpus=4, gpus=0), Node(cpus=8, gpus=1)
    assert is_shared([this, other])
    assert not is_shared([this, replace(other, has_storage=False)])
    assert not is_shared([this])


def test_a_folder_that_only_some_share_is_refused():
    wanted = (
        "storage.path=/results: node 10.0.0.2 does not have this folder, node 10.0.0.3 does; mount it on every node, "
        "or use one that only this node has"
    )
    with pytest.raises(ResourceError) as caught:
        _check_all_or_only_this({"a": "", "b": ABSENT, "c": ""}, "a", ADDRESSES, Path("/results"))
    assert str(caught.value) == wanted
