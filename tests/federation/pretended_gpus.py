"""Client actors on two GPUs that only Ray believes in; run by test_gpu_shares in a process of its own."""

import os
import sys
from contextlib import closing
from unittest.mock import patch

import ray

from promptfleet.cluster.nodes import Node
from promptfleet.cluster.session import ray_session
from promptfleet.errors import ResourceError
from promptfleet.federation.prepare import prepare
from promptfleet.federation.resources import plan_shares
from promptfleet.federation.settings import federation_config


def visible() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def main() -> None:
    config = federation_config({"clients": 6, "storage": {"path": sys.argv[1]}})
    with (
        patch("promptfleet.cluster.session.local_nodes", lambda: [Node(cpus=2, gpus=2)]),
        ray_session() as nodes,
    ):
        from promptfleet.federation.on_ray.fleet import RayFleet, put_frozen

        shares = plan_shares(config, nodes)
        assert (shares.client_gpu, shares.actors_per_gpu) == (0.3333, 3), shares
        assert ray.get(ray.remote(visible).options(num_cpus=0.1).remote()) == ""
        assert ray.get(ray.remote(visible).options(num_cpus=0.1, num_gpus=0.5).remote()) in {"0", "1"}
        with closing(RayFleet(put_frozen(prepare(config)), shares, start_timeout_s=120, own_group=True)) as fleet:
            places = fleet.whereabouts()
            for gpu in (0, 1):
                mine = [place["resources"]["GPU"] for place in places if place["gpus"] == [gpu]]
                assert len(mine) == 3, places
                assert 0.99 < sum(mine) <= 1, places
            one_more = ray.remote(visible).options(num_cpus=0.1, num_gpus=shares.client_gpu).remote()
            ready, _ = ray.wait([one_more], timeout=2)
            assert not ready, "a seventh share was handed out"
            ray.cancel(one_more)
        try:
            plan_shares(federation_config({"clients": 21, "storage": {"path": sys.argv[1]}}), nodes)
        except ResourceError as error:
            print(error)


if __name__ == "__main__":
    main()
