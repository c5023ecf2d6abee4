"""Architecture of glyph-clip, the text vocabulary it is trained with, and its weights file.

The model is ``open_clip.CLIP`` throughout. While training, the token table holds only the tokens that captions can
contain, a hundred and some; :func:`export_weights` puts these rows back into the full table of 49,408, the others zero.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import promptfleet.clip
from promptfleet.atomic_files import replacing
from promptfleet.errors import BackboneError

WEIGHTS = Path(promptfleet.clip.__file__).parent / "glyph_clip" / "glyph-clip.safetensors"
CONFIG = WEIGHTS.with_suffix(".json")
MAX_WEIGHT_BYTES = 6_000_000  # zlib-compressed
MAX_LOGIT_SCALE = 4.6052  # log(100), as in CLIP
TOKEN_TABLE = "token_embedding.weight"


def read_config() -> dict:
    """Return the model config as shipped: embed_dim, vision_cfg, text_cfg, preprocess_cfg."""
    return json.loads(CONFIG.read_text())


def build_model(tokens: int | None = None) -> open_clip.CLIP:
    """Return an untrained glyph-clip, float32; ``tokens`` makes its token table smaller than the vocabulary."""
    config = read_config()
    text = config["text_cfg"] | ({"vocab_size": tokens} if tokens else {})
    return open_clip.CLIP(config["embed_dim"], config["vision_cfg"], text)


def load_model(path: Path = WEIGHTS) -> open_clip.CLIP:
    """Load the pretrained glyph-clip in eval mode, float32.

    Raises:
        BackboneError: if ``path`` does not exist.
    """
    if not path.is_file():
        raise BackboneError(f"no weights at {path}; make them with: python jobs/pretrain.py")
    model = build_model()
    model.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return model.eval()


class Vocabulary:
    """Tokens that training uses, numbered 0..n-1 in the tokenizer's order (so EOT keeps the highest number)."""

    def __init__(self, words: Sequence[str]):
        self._tokenize = open_clip.SimpleTokenizer()
        self.token_ids = torch.unique(self._tokenize([*words, *(f"{word}." for word in words)]))
        self._number = torch.full((self._tokenize.vocab_size,), -1)
        self._number[self.token_ids] = torch.arange(len(self.token_ids))

    def __len__(self) -> int:
        return len(self.token_ids)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return token numbers ``[texts, positions]``, cut after the last EOT: the tower is causal."""
        tokens = self._tokenize(list(texts))
        numbers = self._number[tokens[:, : int(tokens.argmax(1).max()) + 1]]
        if bool((numbers < 0).any()):
            raise ValueError("a text contains a token outside the vocabulary")
        return numbers


class PairEncoder(nn.Module):
    """Both towers in one forward pass, as DistributedDataParallel requires."""

    def __init__(self, clip: open_clip.CLIP):
        super().__init__()
        self.clip = clip

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return unit features ``[images, dim]`` and ``[texts, dim]``, and the scale of their products.

        tokens: ``[texts, positions]``, all positions or those up to the last EOT.
        """
        clip = self.clip
        positions = tokens.shape[1]
        hidden = clip.token_embedding(tokens) + clip.positional_embedding[:positions]
        hidden = clip.ln_final(clip.transformer(hidden, attn_mask=clip.attn_mask[:positions, :positions]))
        text = hidden[torch.arange(len(tokens)), tokens.argmax(1)] @ clip.text_projection
        scale = clip.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        return clip.encode_image(images, normalize=True), F.normalize(text, dim=-1), scale


def matching_loss(image: Tensor, text: Tensor, scale: Tensor, matches: Tensor) -> Tensor:
    """Return CLIP's symmetric cross-entropy with the target spread evenly over all true pairs.

    matches: ``[images, captions]`` bool; every image has a true caption, captions without an image are left out of the
    second direction.
    """
    logits = scale * image @ text.T
    target = matches.float()
    to_text = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    used = matches.any(0)
    per_caption = target[:, used] / target[:, used].sum(0)
    to_image = -(per_caption * logits.log_softmax(0)[:, used]).sum(0).mean()
    return (to_text + to_image) / 2


def export_weights(state: Mapping[str, Tensor], vocabulary: Vocabulary, path: Path) -> int:
    """Write ``state`` (of a model with the small token table) as float16 safetensors; returns its zlib size in bytes.

    The file appears complete or not at all.

    Raises:
        BackboneError: if the compressed file would exceed ``MAX_WEIGHT_BYTES``.
    """
    full = {name: value.detach().to(torch.float16).contiguous() for name, value in state.items()}
    table = torch.zeros(read_config()["text_cfg"]["vocab_size"], full[TOKEN_TABLE].shape[1], dtype=torch.float16)
    table[vocabulary.token_ids] = full[TOKEN_TABLE]
    full[TOKEN_TABLE] = table
    full["logit_scale"] = full["logit_scale"].clamp(max=MAX_LOGIT_SCALE)
    with replacing(path) as partial:
        save_file(full, partial)
        size = compressed_bytes(partial)
        if size > MAX_WEIGHT_BYTES:
            raise BackboneError(
                f"the weights compress to {size} bytes, more than {MAX_WEIGHT_BYTES}; train fewer tokens"
            )
        partial.chmod(0o644)  # safetensors makes it readable for its owner only
    return size


def compressed_bytes(path: Path) -> int:
    """Return the size of the file after zlib, as git stores it."""
    return len(zlib.compress(path.read_bytes(), 6))
