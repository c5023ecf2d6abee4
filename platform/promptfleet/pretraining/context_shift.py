"""Shift of a class's text feature by the words and vectors in front of its name.

All shifts are relative: mean distances of unit features, divided by the mean distance between the features of two
classes. Real CLIP's text features depend on their contexts, and prompt learning lives on that.
"""

from __future__ import annotations

from collections.abc import Sequence

import open_clip
import torch
from torch import Tensor

from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.clip.text_tower import text_tower_of
from promptfleet.clip.tokens import class_texts, embed_classes
from promptfleet.pretraining.bank import DIGIT_NAMES
from promptfleet.pretraining.captions import STYLE_WORDS

SCALES = (0.02, 0.1, 0.3, 1.0)  # standard deviations; the first is that of a context at the start of training
CONTEXTS, TOKENS = 64, 8


@torch.no_grad()
def random_context_shift(model: open_clip.CLIP, scale: float, seed: int = 0) -> float:
    """Return the mean distance of a class feature from its mean over random contexts.

    The 64 contexts have 8 tokens each, normal with standard deviation ``scale``.
    """
    tower = text_tower_of(model, "glyph-clip")
    classes = embed_classes(tower, open_clip.SimpleTokenizer()(class_texts(DIGIT_NAMES)))
    rng = torch.Generator().manual_seed(seed)
    return relative_shift(
        encode_prompts(tower, classes, torch.randn(CONTEXTS, TOKENS, tower.width, generator=rng) * scale)
    )


@torch.no_grad()
def style_word_shift(model: open_clip.CLIP, words: Sequence[str] = tuple(STYLE_WORDS)) -> float:
    """Return the mean distance of a class feature from its mean over the texts "a WORD digit seven." """
    tokenize = open_clip.SimpleTokenizer()
    texts = [tokenize([f"a {word} digit {name}." for name in DIGIT_NAMES]) for word in words]
    return relative_shift(torch.stack([model.encode_text(tokens, normalize=True) for tokens in texts]))


def relative_shift(features: Tensor) -> float:
    """Return the mean distance of ``features [contexts, classes, dim]`` from their means over contexts, as a ratio.

    The other side of the ratio is the mean distance between two classes in one context.
    """
    centres = features.mean(0)
    first, second = torch.triu_indices(*[features.shape[1]] * 2, 1)
    between_classes = (features[:, first] - features[:, second]).norm(dim=-1).mean()
    return float((features - centres).norm(dim=-1).mean() / between_classes)
