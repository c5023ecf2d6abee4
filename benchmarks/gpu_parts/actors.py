"""Client actors that share one card: memory of one process step by step, then seconds and memory of 1 to 20 actors.

The paper's CIFAR-100 shape (see ``cifar100.py``). Memory of the card is read before and during the rounds, so other
processes on it would count.
"""

import gc
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch

from gpu_parts.cifar100 import make_inputs, paper_config
from gpu_parts.encoder import TOKENS
from gpu_parts.part import Row, Setting, run_part
from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.federation.gpu_shares import share_of
from promptfleet.federation.prepare import Prepared

ACTORS, CLIENTS, ROUNDS = (1, 4, 10, 20), 20, 5


def rows(setting: Setting) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        prepared = make_inputs(Path(folder), setting)
        if setting.on_card:
            yield from _one_process(setting, prepared)
        import ray  # noqa: F401  left out, with this module's name, where it is missing

        many = (1, 2) if setting.small else ACTORS
        for actors in many:
            yield _federation(setting, prepared, clients=actors, clients_per_actor=1)
        yield _federation(setting, prepared, clients=many[-1], clients_per_actor=many[-1])


def _one_process(setting: Setting, prepared: Prepared) -> Iterator[Row]:
    """Yield this process's memory of the card with CUDA alone, with the weights, after a step of one client."""
    free = card_used_mib()
    torch.zeros(1, device=setting.device)
    yield {"what": "one process", "after": "CUDA", "mib": card_used_mib() - free}
    clip = prepared.clip.to(setting.device)
    yield {"what": "one process", "after": "weights", "mib": card_used_mib() - free}
    for prompts in (1, 10):
        contexts = torch.randn(prompts, TOKENS, clip.tower.width, device=setting.device, requires_grad=True)
        encode_prompts(clip.tower, clip.classes, contexts).sum().backward()
        gc.collect()
        torch.cuda.synchronize()
        yield {"what": "one process", "after": f"a step of {prompts} prompts", "mib": card_used_mib() - free}


def _federation(setting: Setting, prepared: Prepared, *, clients: int, clients_per_actor: int) -> Row:
    from promptfleet.cluster.session import ray_session
    from promptfleet.federation.on_ray.fleet import RayFleet, put_frozen
    from promptfleet.federation.resources import plan_shares
    from promptfleet.federation.rounds import Federation

    actors = -(-clients // clients_per_actor)
    runtime = {"backend": "ray", "device": setting.device.type, "clients_per_actor": clients_per_actor}
    share = {"client": {"gpu": share_of(actors)}} if setting.on_card else {}
    more = {"clients": clients, "participation": 1.0, "runtime": runtime, "resources": share}
    experts = {"experts": min(9, clients - 1)}
    config = paper_config(setting, **more, **experts, partition={"kind": "iid"})
    free = card_used_mib() if setting.on_card else 0.0
    with ray_session() as nodes:
        shares = plan_shares(config, nodes)
        with closing(RayFleet(put_frozen(prepared), shares, start_timeout_s=300, own_group=True)) as fleet:
            federation = Federation(config, prepared, fleet)
            times = [federation.run_round().seconds for _ in range(2 if setting.small else ROUNDS)]
            used = card_used_mib() - free if setting.on_card else None
    return {
        "what": "federation",
        "clients": clients,
        "actors": actors,
        "round_s": statistics.median(times[1:]),
        "round_s_per_client": statistics.median(times[1:]) / clients,
        "mib": used,
        "mib_per_actor": used and used / actors,
    }


def card_used_mib() -> float:
    """Return the memory in use on the first card, by all processes."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    run_part("actors", rows)
