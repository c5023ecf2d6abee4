"""The simple text encoder: every class as a full row of 77 tokens. Slow, and the reference for the fast one."""

import torch
import torch.nn.functional as F
from torch import Tensor

from promptfleet.clip.prompt_layout import ClassTokens, Position
from promptfleet.clip.text_tower import TextTower


def encode_texts(tower: TextTower, token_ids: Tensor) -> Tensor:
    """Return text features ``[texts, dim]``, unit norm, of ``token_ids [texts, positions]`` that end in EOT and zeros.

    EOT is the highest id of CLIP's vocabulary, so its place is the row's maximum.
    """
    embedded = tower.weights["token_embedding.weight"][token_ids]
    return _encode(tower, embedded, token_ids.argmax(dim=-1))


def encode_prompts_plainly(
    tower: TextTower, classes: ClassTokens, contexts: Tensor, position: Position = "end"
) -> Tensor:
    """Return the same as ``prompt_encoder.encode_prompts``, from prompts padded to all positions, class by class."""
    return torch.stack([_encode_prompt(tower, classes, context, position) for context in contexts])


def _encode_prompt(tower: TextTower, classes: ClassTokens, context: Tensor, position: Position) -> Tensor:
    rows, ends = [], []
    for label, length in enumerate(classes.lengths.tolist()):
        own_context = context[label] if context.dim() == 3 else context
        before, last = {"end": len(own_context), "middle": len(own_context) // 2, "front": 0}[position], 2
        if frame := classes.frame:
            places = zip(frame.sources.tolist(), frame.base, strict=True)
            own_context = torch.stack([hard if at == frame.vectors else hard + own_context[at] for at, hard in places])
            before, last = frame.before, 1
        text, last_tokens = classes.suffix[label, : length - last], classes.suffix[label, length - last : length]
        row = torch.cat([classes.start.unsqueeze(0), own_context[:before], text, own_context[before:], last_tokens])
        ends.append(len(row) - 1)
        rows.append(F.pad(row, (0, 0, 0, tower.positions - len(row))))
    return _encode(tower, torch.stack(rows), torch.tensor(ends, device=context.device))


def _encode(tower: TextTower, embedded: Tensor, end: Tensor) -> Tensor:
    x = embedded + tower.weights["positional_embedding"]
    for layer in range(tower.layers):
        queries, keys, values = map(tower.split_heads, tower.queries_keys_values(layer, x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = tower.after_attention(layer, x, tower.join_heads(mixed))
    return tower.project(x[torch.arange(len(x), device=x.device), end].unsqueeze(1)).squeeze(1)
