"""Make a Ray cluster start workers until it has GPUs, on its head: python clusters/wait_for_gpus.py [NUMBER]

Run this right before the job that uses them: workers end after idle_timeout_minutes without work. The request ends with
this process, also if it is killed. A request by Ray's request_resources would stay as long as the head does, and so
would a worker that is paid for.
"""

import sys

from promptfleet.command_line import ArgumentParser, run
from promptfleet.errors import ResourceError, first_line


def main() -> None:
    parser = ArgumentParser(prog="wait_for_gpus.py", description="Have a cluster start workers until it has GPUs.")
    parser.add_argument("number", nargs="?", type=int, default=1, help="how many (default: 1)")
    parser.add_argument("--address", default="auto", help="the cluster (default: the one on this machine)")
    arguments = parser.parse_args()
    if arguments.number < 1:
        parser.error("argument number: should be at least 1")

    import ray
    from ray.util.placement_group import placement_group

    try:
        ray.init(address=arguments.address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        raise ResourceError(f"--address {arguments.address}: no Ray cluster to join ({first_line(error)})") from None
    print(
        f"waiting until the cluster has {arguments.number} free GPUs; `ray status` shows how far it is", file=sys.stderr
    )
    ray.get(placement_group([{"GPU": 1}] * arguments.number).ready())


if __name__ == "__main__":
    run(main)
