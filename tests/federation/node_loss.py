"""A federation on two nodes of one machine, one of which goes down; run by test_node_loss in a process of its own."""

import os
import sys

import ray
from ray.cluster_utils import Cluster

from promptfleet import run_federation
from promptfleet.cluster.session import LOGGING

STORE = {"object_store_memory": 100 * 2**20}
NOTICED_SOON = {"health_check_period_ms": 300, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 3}


def main() -> None:
    faults, storage = sys.argv[1:]
    values = {
        "method": "tests.faulty:Faulty",
        "faults_folder": faults,
        "width": 20_000,  # too large for Ray to keep it anywhere but on the node that made it
        "clients": 3,
        "rounds": 3,
        "resources": {"client": {"cpu": 1, "gpu": 0}, "server": {"cpu": 1}},
        "storage": {"path": storage},
    }
    wanted = run_federation({**values, "runtime": {"backend": "local"}})

    cluster = Cluster(True, head_node_args={"num_cpus": 0, "_system_config": NOTICED_SOON, **STORE})
    lost = cluster.add_node(num_cpus=5, **STORE)
    ray.init(address=cluster.address, **LOGGING)
    rounds = []

    def after_round(report) -> None:
        rounds.append(report.round)
        if report.round == 2:  # server, clients and all that they gave are on it
            cluster.add_node(num_cpus=5, **STORE)
            cluster.remove_node(lost, allow_graceful=False)

    result = run_federation(values, on_round=after_round, address=cluster.address)
    assert rounds == [1, 2, 3]
    assert result.state_sha256 == wanted.state_sha256
    assert result.clients == wanted.clients
    for report in result.rounds:
        for event in report.events:
            print(report.round, event)
    sys.stdout.flush()
    ray.shutdown()
    cluster.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
