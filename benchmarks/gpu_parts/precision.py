"""Half precision against float32 on handwritten digits with glyph-clip: accuracy and prompts."""

import tempfile
from collections.abc import Iterator

import torch
from torch import Tensor

from gpu_parts.part import Row, Setting, run_part

SEEDS = (0, 1, 2)


def rows(setting: Setting) -> Iterator[Row]:
    from promptfleet import run_federation

    small = {"clients": 4, "rounds": 2, "local_epochs": 1} if setting.small else {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS[:1] if setting.small else SEEDS:
            found = {}
            for precision in ("float32", "bfloat16", "float16"):
                runtime = {"backend": "local", "device": setting.device.type}
                values = {"seed": seed, "precision": precision, "runtime": runtime, "storage": {"path": folder}}
                result = run_federation({**small, **values})
                found[precision] = result
                exact = found["float32"]
                yield {
                    "seed": seed,
                    "precision": precision,
                    "test_accuracy": result.test_accuracy,
                    "points_from_float32": 100 * (result.test_accuracy - exact.test_accuracy),
                    "prompt_difference": relative(result.server["context"], exact.server["context"]),
                    "seconds": result.seconds,
                }


def relative(found: Tensor, exact: Tensor) -> float:
    """Return the norm of the difference over the norm."""
    return float(torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact))


if __name__ == "__main__":
    run_part("precision", rows)
