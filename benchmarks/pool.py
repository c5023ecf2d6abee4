"""A round of pFedMoAP's server with its pool in memory and on disk: python benchmarks/pool.py

The server alone: it aggregates a cohort's uploads, and chooses and reads the experts of another cohort. Prompts are
made as in selection.py. Each pool has a separate process, whose peak memory is that of the measured rounds; a round
after which all sketches are computed again comes before them and is timed by itself.
"""

import argparse
import hashlib
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from measuring import count_peak_anew, peak_mib, report
from promptfleet.federation.client import ClientResult
from promptfleet.federation.prepare import prepare
from promptfleet.federation.server import Server
from promptfleet.federation.server_rows import KeptRows
from promptfleet.federation.settings import federation_config
from promptfleet.methods.experts.on_disk import OnDisk
from promptfleet.methods.pfedmoap import PFedMoAP
from promptfleet.methods.protocol import Message, World
from promptfleet.seeding import stream
from selection import BLOCK, TOKENS, add_pool_arguments, blocks, forget, say, trained_prompts

ROUNDS = (5, 6, 7)  # no powers of two, after which all sketches are computed again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=100_000)
    add_pool_arguments(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        say("training the prompts to make experts from")
        real, rows = trained_prompts(folder), []
        for storage in ("memory", "disk"):
            say(f"{options.experts} experts: {storage}")
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                measured = alone.submit(measure, storage, Path(folder), real, options)
                rows.append(measured.result())
    first, second = (row.pop("downloads") for row in rows)
    rows[1]["same"] = rows[0]["same"] = first == second
    report("a round of the server", rows, as_json=options.json, cohort=options.cohort, threads=options.threads)


def measure(storage: str, folder: Path, real: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds of the fastest of three rounds; ``cold_s``: choosing without any of the pool in the page cache."""
    torch.set_num_threads(options.threads)
    server = filled_server(storage, folder, real, options)
    prompts = next(blocks("prompts", real, 4 * options.cohort)).chunk(4)
    sketches_s, _ = round_of(server, 4, prompts[0], options)
    count_peak_anew()
    times = [round_of(server, index, some, options) for index, some in zip(ROUNDS, prompts[1:], strict=True)]
    peak = peak_mib()
    if storage == "disk":
        for path in (folder / "rows").iterdir():
            forget(path)
    cold_s, downloads = choose(server, 9, options)
    return {
        "pool": storage,
        "experts": options.experts,
        "aggregate_s": min(one for one, _ in times),
        "select_s": min(one for _, one in times),
        "cold_s": cold_s if storage == "disk" else None,
        "sketches_s": sketches_s,
        "peak_gb": peak * 2**20 / 1e9,
        "state_gb": sum(tensor.nbytes for tensor in server.state.values()) / 1e9,
        "downloads": downloads,
    }


def filled_server(storage: str, folder: Path, real: Tensor, options: argparse.Namespace) -> Server:
    """Return a server after round 3, in which all clients have trained."""
    values = {"prompt_length": TOKENS, "storage": {"path": str(folder)}}
    prepared = prepare(federation_config(values))
    many = {
        "clients": options.experts,
        "experts": options.count,
        "pool": {"dtype": "float16", "storage": storage},
    }
    rows = KeptRows(folder / "rows")
    (folder / "rows").mkdir(exist_ok=True)
    server = Server(PFedMoAP(), World(federation_config(values | many), prepared.clip, prepared.class_names, rows=rows))
    state = {**server.state, "round": torch.tensor(3), "pool.round": torch.full((options.experts,), 3)}
    for start, block in zip(range(0, options.experts, BLOCK), blocks("prompts", real, options.experts), strict=True):
        entries = {
            "context": block.half().view(-1, *state["context"].shape),
            "text": texts(state["text"], block),
        }
        clients = range(start, start + len(block))
        if storage == "disk":
            shapes = {kind: state[kind].shape for kind in entries}
            new = {kind: dict(zip(clients, tensor, strict=True)) for kind, tensor in entries.items()}
            state |= OnDisk.of(state, shapes, torch.float16, rows).with_new(new).state()
        else:
            for kind, tensor in entries.items():
                state[f"pool.{kind}"][start : start + len(block)] = tensor
    server.load(state)
    return server


def texts(text: Tensor, prompts: Tensor) -> Tensor:
    """Return texts for the prompts, in half precision; their content makes no difference here."""
    return (text + prompts[:, :1, None]).half()


def round_of(server: Server, round_index: int, prompts: Tensor, options: argparse.Namespace) -> tuple[float, float]:
    """Return seconds of aggregating one cohort's prompts, and of choosing for the next one."""
    uploads = {
        client: ClientResult(
            Message({"context": one.view_as(server.state["context"])}, {"text": server.state["text"]}), 1
        )
        for client, one in zip(cohort(round_index, options), prompts, strict=True)
    }
    started = time.perf_counter()
    rejected = server.aggregate(round_index, uploads)
    seconds = time.perf_counter() - started
    assert not rejected
    return seconds, choose(server, round_index + 1, options)[0]


def choose(server: Server, round_index: int, options: argparse.Namespace) -> tuple[float, str]:
    """Return seconds, and a hash of the downloads."""
    started = time.perf_counter()
    downloads = server.select(round_index, cohort(round_index, options))
    seconds = time.perf_counter() - started
    digest = hashlib.sha256()
    for message in downloads.values():
        for tensor in (message.tensors["experts"], message.attached["expert_text"]):
            digest.update(tensor.contiguous().numpy())
    return seconds, digest.hexdigest()


def cohort(round_index: int, options: argparse.Namespace) -> list[int]:
    drawn = stream(0, "cohort", round_index=round_index).choice(options.experts, options.cohort, replace=False)
    return sorted(drawn.tolist())


if __name__ == "__main__":
    main()
