"""The card: its name and memory, and the rates of large matrix products and copies that everything else is held to."""

from collections.abc import Iterator

import torch

from gpu_parts.part import Row, Setting, run_part, seconds_of

DTYPES = ("float32", "bfloat16", "float16")


def rows(setting: Setting) -> Iterator[Row]:
    if setting.on_card:
        properties = torch.cuda.get_device_properties(setting.device)
        yield {
            "what": "card",
            "name": properties.name,
            "memory_gib": properties.total_memory / 2**30,
            "processors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
        }
    for dtype in DTYPES:
        yield {"what": "matrix product", "dtype": dtype, "tflops": product_tflops(setting, dtype)}
    if setting.on_card:
        torch.backends.cuda.matmul.allow_tf32 = True
        yield {"what": "matrix product", "dtype": "tf32", "tflops": product_tflops(setting, "float32")}
        torch.backends.cuda.matmul.allow_tf32 = False
    yield from _copies(setting)


def product_tflops(setting: Setting, dtype: str) -> float:
    """Rate of one large square matrix product, in 10^12 floating-point operations per second."""
    size = 256 if setting.small else 8192
    left, right = (torch.randn(size, size, device=setting.device, dtype=getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(left)
    seconds = seconds_of(lambda: torch.mm(left, right, out=out), setting.device, repeats=10)
    return 2 * size**3 / seconds / 1e12


def _copies(setting: Setting) -> Iterator[Row]:
    """On the device, bytes read and written; from the host, bytes sent."""
    size = 2**20 if setting.small else 2**30
    source = torch.randn(size // 4, device=setting.device)
    target = torch.empty_like(source)
    seconds = seconds_of(lambda: target.copy_(source), setting.device, repeats=10)
    yield {"what": "copy on the device", "gb_per_s": 2 * size / seconds / 1e9}
    if setting.on_card:
        for kind, host in (("pageable", torch.randn(size // 4)), ("pinned", torch.randn(size // 4).pin_memory())):
            seconds = seconds_of(lambda host=host: target.copy_(host, non_blocking=True), setting.device)
            yield {"what": f"copy from {kind} memory", "gb_per_s": size / seconds / 1e9}


if __name__ == "__main__":
    run_part("card", rows)
