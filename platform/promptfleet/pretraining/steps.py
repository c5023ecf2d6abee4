"""One training step of glyph-clip, its optimizers and learning rate, and the check on held-out drawings (no Ray)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from promptfleet.pretraining import captions, glyphs
from promptfleet.pretraining.bank import DIGIT_NAMES, GlyphBank, build_bank
from promptfleet.pretraining.evaluation import TEMPLATE
from promptfleet.pretraining.model import PairEncoder, Vocabulary, matching_loss, read_config
from promptfleet.pretraining.strokes import DIGITS, SHAPES

TEXT_EMBEDDINGS = ("clip.token_embedding.weight", "clip.positional_embedding")


def train_step(
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    bank: GlyphBank,
    weights: Tensor,
    vocabulary: Vocabulary,
    key: tuple[int, int, int],
    batch: int,
    *,
    plain: bool = False,
) -> tuple[float, float]:
    """Run one step on images and captions drawn from ``key`` (seed, worker, step); ``plain`` as in ``caption_batch``.

    Returns the loss and the share of images whose best caption is true.
    """
    numpy_rng = np.random.default_rng(np.random.SeedSequence(key[0], spawn_key=key[1:]))
    torch_rng = torch.Generator(weights.device).manual_seed(int(numpy_rng.integers(2**62)))
    rendered = glyphs.render(bank, torch.multinomial(weights, batch, replacement=True, generator=torch_rng), torch_rng)
    texts = captions.caption_batch(numpy_rng, rendered.label.cpu().numpy(), rendered.styles.cpu().numpy(), plain=plain)
    tokens = vocabulary([caption.text for caption in texts]).to(weights.device)
    true = captions.matches(texts, rendered.label, rendered.styles)
    image, text, logit_scale = model(_normalized(rendered), tokens)
    loss = matching_loss(image, text, logit_scale, true)
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    best = (image @ text.T).argmax(1)
    return loss.item(), true[torch.arange(batch), best].float().mean().item()


def make_optimizers(
    encoder: PairEncoder, *, lr: float, embedding_lr: float, muon_lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the transformer blocks, AdamW for all else (undecayed).

    The embeddings of tokens and positions in the text tower get ``embedding_lr``. Where they stay small, a context of
    the size that prompt learning starts from moves the text features.
    """
    inner, embeddings, rest = [], [], []
    for name, value in encoder.named_parameters():
        is_inner = "resblocks" in name and value.ndim == 2
        (inner if is_inner else embeddings if name in TEXT_EMBEDDINGS else rest).append(value)
    muon = torch.optim.Muon(inner, lr=muon_lr, weight_decay=weight_decay, momentum=0.95)
    groups = [{"params": rest, "lr": lr}, {"params": embeddings, "lr": embedding_lr}]
    adam = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return [muon, adam]


def sampling_weights(bank: GlyphBank, pen_share: float) -> Tensor:
    """Return each glyph's probability: half digits, ``pen_share`` of them by pen; shapes are rare."""
    count = torch.bincount(bank.label * 2 + bank.is_pen, minlength=2 * (int(bank.label.max()) + 1)).float()
    share = torch.full((len(captions.GLYPHS), 2), 0.45 / 52 / 2)
    share[: len(DIGITS)] = 0.5 / len(DIGITS) * torch.tensor([1 - pen_share, pen_share])
    share[-len(SHAPES) :] = 0.05 / len(SHAPES)
    share = share.to(bank.label.device)
    return share.flatten()[bank.label * 2 + bank.is_pen] / count[bank.label * 2 + bank.is_pen]


def held_out_digits(seed: int) -> glyphs.Rendered:
    """Render 1,000 pen digits that are never trained on: other drawings (another seed), other distortions."""
    bank = build_bank(np.random.default_rng(seed + 10_007), fonts=(), pens_per_digit=50, pens_per_other=0)
    return glyphs.render(bank, torch.arange(len(bank.label)).repeat(2), torch.Generator().manual_seed(seed + 10_007))


@torch.no_grad()
def held_out_accuracy(model: nn.Module, vocabulary: Vocabulary, held_out: glyphs.Rendered) -> float:
    """Return the zero-shot accuracy on ``held_out`` with the template of the real digits."""
    tokens = vocabulary([TEMPLATE.format(name) for name in DIGIT_NAMES]).to(held_out.images.device)
    image, text, _ = PairEncoder(model)(_normalized(held_out), tokens)
    return ((image @ text.T).argmax(1) == held_out.label).float().mean().item()


def schedule(done: float, warmup: float) -> float:
    """Return the learning rate's factor: linear warm-up, then half a cosine to zero."""
    if done < warmup:
        return max(done / warmup, 0.01)
    return 0.5 * (1 + math.cos(math.pi * min((done - warmup) / (1 - warmup), 1.0)))


def _normalized(rendered: glyphs.Rendered) -> Tensor:
    """Return the images in the backbone's normalization."""
    config = read_config()["preprocess_cfg"]
    return glyphs.normalize(rendered.images, config["mean"], config["std"])
