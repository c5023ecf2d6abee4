"""The nearest experts of a cohort in a pool of many: python benchmarks/selection.py

By one product with all of them, by sketches to the same result, and from a shortlist by sketches, with the share of the
true nearest that it finds. A pool is on disk in float16. Its prompts are either independent normal numbers, the hardest
case for sketches, or made from real ones: of clients with two digits each, every expert is a mixture of three of their
prompts plus noise of a tenth of their median distance.
"""

import argparse
import mmap
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from measuring import report
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.prepare import prepare
from promptfleet.federation.rounds import Federation
from promptfleet.federation.settings import federation_config
from promptfleet.methods.experts.nearest import nearest
from promptfleet.methods.experts.selection import SHORTLIST
from promptfleet.methods.experts.sketch_search import nearest_by_sketch
from promptfleet.methods.experts.sketches import principal_frame, sketch
from promptfleet.seeding import stream

BLOCK = 5_000  # experts that are made at once
TOKENS, CLIENTS = 64, 60  # of glyph-clip's width that is 8,192 numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, nargs="+", default=(10_000, 100_000), help="1000000 take 16 GB of disk")
    parser.add_argument("--data", nargs="+", choices=("prompts", "normal"), default=("prompts", "normal"))
    add_pool_arguments(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        say("training the prompts to make experts from")
        real = trained_prompts(folder)
        rows = [
            measure_pool(Path(folder) / "pool.float16", data, real, experts, options.cohort, options.count)
            for data in options.data
            for experts in options.experts
        ]
    report("nearest experts of a cohort", rows, as_json=options.json, cohort=options.cohort, threads=options.threads)


def add_pool_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a pool: cohort, number of experts, threads, folder."""
    parser.add_argument("--cohort", type=int, default=100)
    parser.add_argument("--count", type=int, default=9, help="experts that each client gets")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", help="where the pool is written and deleted again (default: the temporary one)")
    parser.add_argument("--json", action="store_true")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def trained_prompts(folder: str) -> Tensor:
    """Return ``[clients, numbers]`` after two rounds."""
    partition = {"kind": "pathological", "classes_per_client": 2}
    values = {"clients": CLIENTS, "prompt_length": TOKENS, "partition": partition, "storage": {"path": folder}}
    config = federation_config(values)
    prepared = prepare(config)
    with closing(LocalFleet(prepared)) as fleet:
        federation = Federation(config, prepared, fleet)
        for _ in range(2):
            federation.run_round()
        return federation.snapshot().server["pool.context"].flatten(1)


def measure_pool(path: Path, data: str, real: Tensor, experts: int, cohort: int, count: int) -> dict[str, Any]:
    """Measure a search by sketches: the fastest of three, from the page cache; ``cold_s`` without the page cache."""
    say(f"{experts} experts ({data}): writing {experts * real.shape[1] * 2 / 1e9:.1f} GB")
    kept = np.memmap(path, np.float16, "w+", shape=(experts, real.shape[1]))
    for start, block in zip(range(0, experts, BLOCK), blocks(data, real, experts), strict=True):
        kept[start : start + BLOCK] = block.half().numpy()
    kept.flush()
    del kept

    everybody = torch.ones(experts, dtype=torch.bool)
    asking = sorted(stream(0, "cohort").choice(experts, cohort, replace=False).tolist())
    say("  sketches")
    frame = principal_frame(mapped(path, experts, at_random=True), everybody, stream(0, "frame"))
    sketches_s, _, sketches = timed(lambda: sketch(mapped(path, experts), frame))

    def search(shortlist: int | None) -> list[list[int]]:
        pool = mapped(path, experts, at_random=True)
        return nearest_by_sketch(pool, sketches, everybody, asking, count, shortlist=shortlist)

    say("  by sketches")
    forget(path)
    cold_s, _, projected = timed(lambda: search(SHORTLIST))
    projected_s = min(timed(lambda: search(SHORTLIST))[0] for _ in range(3))
    exact_s, exact = min((timed(lambda: search(None))[::2] for _ in range(3)), key=itemgetter(0))
    say("  by one product with all")
    product_s, _, wanted = timed(lambda: nearest(mapped(path, experts), everybody, asking, count))
    path.unlink()
    shares = [len(set(one) & set(other)) / count for one, other in zip(projected, wanted, strict=True)]
    return {
        "data": data,
        "experts": experts,
        "pool_gb": experts * real.shape[1] * 2 / 1e9,
        "sketches_gb": sketches.nbytes / 1e9,
        "sketches_s": sketches_s,
        "product_s": product_s,
        "exact_s": exact_s,
        "same": exact == wanted,
        "projected_s": projected_s,
        "cold_s": cold_s,
        "recall": statistics.fmean(shares),
    }


def blocks(data: str, real: Tensor, experts: int) -> Iterator[Tensor]:
    """Yield experts ``[<= BLOCK, numbers]``, float32, ``experts`` in all."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * float(torch.pdist(real).median()) / real.shape[1] ** 0.5
    for start in range(0, experts, BLOCK):
        drawn = torch.randn(min(BLOCK, experts - start), real.shape[1], generator=generator)
        if data == "prompts":
            parents = torch.randint(len(real), (len(drawn), 3), generator=generator)
            shares = torch.rand(len(drawn), 3, generator=generator)
            mixture = torch.zeros(len(drawn), len(real)).scatter_add_(1, parents, shares / shares.sum(1, keepdim=True))
            drawn = torch.addmm(drawn, mixture, real, beta=noise)
        yield drawn


def mapped(path: Path, experts: int, *, at_random: bool = False) -> Tensor:
    """Return the pool on disk, read on request."""
    kept = np.memmap(path, np.float16, "c").reshape(experts, -1)
    kept._mmap.madvise(mmap.MADV_RANDOM if at_random else mmap.MADV_SEQUENTIAL)
    return torch.from_numpy(kept)


def forget(path: Path) -> None:
    """Drop the file from the operating system's page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return seconds of the clock and of the processor, and the result of ``work``."""
    started, before = time.perf_counter(), time.process_time()
    given = work()
    return time.perf_counter() - started, time.process_time() - before, given


if __name__ == "__main__":
    main()
