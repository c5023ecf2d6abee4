"""Encoding of JPEG files into a feature store, against bare forward passes on tensors (see ``encode.py``)."""

import os
from collections.abc import Iterator

from gpu_parts.part import Row, Setting, run_part


def rows(setting: Setting) -> Iterator[Row]:
    from encode import compare, photographs, spread_out

    images, name = (64, "glyph-clip") if setting.small else (4096, "ViT-B-16")
    threads = len(os.sched_getaffinity(0))
    yield compare(name, spread_out(photographs(), images), repeats=1, threads=threads, device=setting.device.type)


if __name__ == "__main__":
    run_part("images", rows)
