"""The prefix-shared text encoder against rows of 77 tokens: forward and backward to the contexts."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gpu_parts.card import product_tflops
from gpu_parts.part import Row, Setting, run_part, seconds_of, synchronize, timed, unless_it_does_not_fit
from gpu_parts.towers import random_classes, random_tower
from promptfleet.clip.plain_encoder import encode_prompts_plainly
from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.clip.prompt_layout import ClassTokens
from promptfleet.clip.text_tower import TextTower

TOKENS = 16
CLASSES, PROMPTS = (100, 397, 10, 1000), (16, 1)  # those that matter most come first
LONGEST_S = 4.0  # of all prompts as rows of 77 tokens; longer ones are measured with one prompt


def rows(setting: Setting) -> Iterator[Row]:
    names = ("tiny",) if setting.small else ("ViT-B-16", "ViT-L-14")
    classes, prompts = ((10,), (1, 3)) if setting.small else (CLASSES, PROMPTS)
    rates = {dtype: product_tflops(setting, dtype) for dtype in ("float32", "bfloat16")}
    for name in names:
        tower = random_tower(name, setting.device)
        for many in classes:
            tokens = random_classes(tower, many, setting.device)
            for each in prompts:
                for dtype, rate in rates.items():
                    found = compare(setting, tower, tokens, each, dtype)
                    found["share_of_card"] = found["tflops"] and found["tflops"] / rate
                    yield {"backbone": name, "classes": many, "prompts": each, "dtype": dtype, **found}


def compare(setting: Setting, tower: TextTower, classes: ClassTokens, prompts: int, dtype: str) -> Row:
    """Return seconds of both ways, their ratio, and the rate of the fast way; None if the memory does not suffice.

    The rows of 77 tokens go through the tower prompt by prompt, since all at once would need too much memory.
    """
    device = setting.device
    contexts = torch.randn(prompts, TOKENS, tower.width, device=device) * 0.02
    upstream = torch.randn(prompts, len(classes), tower.dim, device=device)

    def step(encode: Callable[..., Tensor], which: slice) -> tuple[Tensor, Tensor]:
        leaf = contexts[which].clone().requires_grad_()
        with torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32"):
            features = encode(tower, classes, leaf)
        features.backward(upstream[which])
        return features.detach(), leaf.grad

    def plainly(which: slice) -> None:
        for prompt in range(prompts)[which]:
            step(encode_prompts_plainly, slice(prompt, prompt + 1))

    fast = partial(step, encode_prompts, slice(None))
    fast_s = unless_it_does_not_fit(lambda: seconds_of(fast, device, repeats=20))
    one_s = unless_it_does_not_fit(lambda: seconds_of(partial(plainly, slice(1)), device, repeats=2))
    measured_all = one_s is not None and prompts > 1 and one_s * prompts < LONGEST_S
    plain_s = timed(partial(plainly, slice(None)), device) if measured_all else one_s and one_s * prompts
    return {
        "fast_s": fast_s,
        "plain_s": plain_s,
        "plain_measured_with": prompts if measured_all else 1,
        "ratio": plain_s / fast_s if fast_s and plain_s else None,
        "tflops": fast_s and operations(fast) / fast_s / 1e12,
        "peak_gib": peak_gib(fast, device) if fast_s else None,
        **(differences(step) if fast_s and plain_s else {}),
    }


def operations(work: Callable[[], object]) -> int:
    """Return the floating-point operations of matrix products in ``work``, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def peak_gib(work: Callable[[], object], device: torch.device) -> float | None:
    """Return the largest memory of torch's allocator while ``work`` runs; None on a CPU."""
    if device.type != "cuda":
        return None
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**30


def differences(step: Callable[..., tuple[Tensor, Tensor]]) -> Row:
    """Return differences between both ways for the first prompt: the largest of a feature, relative of the gradient."""
    (fast, fast_gradient), (plain, plain_gradient) = (
        step(encode, slice(1)) for encode in (encode_prompts, encode_prompts_plainly)
    )
    return {
        "feature_difference": float((fast - plain).abs().max()),
        "gradient_difference": float((fast_gradient - plain_gradient).norm() / plain_gradient.norm()),
    }


if __name__ == "__main__":
    run_part("encoder", rows)
