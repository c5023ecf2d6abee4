"""Text features of learnable prompts, computed exactly and without repeated work.

A prompt is a row of tokens such as ``[SOS][context][class name][.][EOT][padding]``. In a causal tower nothing after EOT
can reach EOT, so the padding is dropped. All tokens before the first one that differs between classes are the same for
all of them: that prefix runs once per prompt, and each class runs only its own few tokens against the prefix's keys and
values. In the last layer only the EOT token is still needed. ``plain_encoder`` does the same in the simple way; tests
compare the two.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from promptfleet.clip.prompt_layout import ClassTokens, Packing, Position, lay_out
from promptfleet.clip.text_tower import TextTower


def encode_prompts(
    tower: TextTower,
    classes: ClassTokens,
    contexts: Tensor,
    position: Position = "end",
    lengths: Tensor | None = None,
) -> Tensor:
    """Return text features ``[prompts, classes, dim]``, unit norm, of prompts laid out as ``lay_out`` says.

    contexts ``[prompts, tokens, width]``, or ``[prompts, classes, tokens, width]`` where every class has its own;
    with ``lengths [prompts]`` they are padded to one length, see ``lay_out``.
    Gradients flow to ``contexts``. Raises ValueError where a prompt exceeds the tower.
    """
    for state in hidden_states(tower, classes, contexts, position, lengths):
        ends = state
    return tower.project(ends)


def hidden_states(
    tower: TextTower,
    classes: ClassTokens,
    contexts: Tensor,
    position: Position = "end",
    lengths: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield the tokens after each layer: ``[prompts, packed tokens, width]``, of the last layer EOT alone.

    Arguments are those of ``encode_prompts``. Gradients flow to the tower's weights, too, if they ask for some.
    """
    prompts = lay_out(tower, classes, contexts, position, lengths)
    packing, hidden = prompts.packing, prompts.hidden
    x = torch.cat([prompts.shared, packing.pack(prompts.own.flatten(1, 2))], dim=1)
    for layer in range(tower.layers - 1):
        x = tower.after_attention(layer, x, _attention(tower, tower.queries_keys_values(layer, x), packing, hidden))
        yield x
    mixed = _attention_of_ends(tower, tower.queries_keys_values(tower.layers - 1, x), packing, hidden)
    yield tower.after_attention(tower.layers - 1, x.index_select(1, packing.ends), mixed)


def _attention(tower: TextTower, projected: Tensor, packing: Packing, hidden: Tensor | None) -> Tensor:
    """Return the attention output of every token of ``projected [prompts, packed tokens, 3 * width]``."""
    queries, keys, values = _split(tower, projected[:, : packing.shared])
    own_queries, own_keys, own_values = _split(tower, packing.unpack(projected))
    scores = queries @ keys.transpose(-1, -2)
    scores = scores + packing.shared_causal.to(scores.dtype)
    shared = torch.softmax(scores, dim=-1) @ values
    own = _attend(own_queries, keys, values, own_keys, own_values, packing.causal, packing.classes, hidden)
    return torch.cat([tower.join_heads(shared), packing.pack(tower.join_heads(own))], dim=1)


def _attention_of_ends(tower: TextTower, projected: Tensor, packing: Packing, hidden: Tensor | None) -> Tensor:
    """Return ``_attention`` of the EOT tokens alone: ``[prompts, classes, width]``."""
    queries, _, _ = _split(tower, projected.index_select(1, packing.ends))
    _, keys, values = _split(tower, projected[:, : packing.shared])
    _, own_keys, own_values = _split(tower, packing.unpack(projected))
    mask = packing.causal[packing.last].unsqueeze(1)
    return tower.join_heads(_attend(queries, keys, values, own_keys, own_values, mask, packing.classes, hidden))


def _split(tower: TextTower, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return scaled queries, keys and values, each ``[prompts, heads, tokens, head_dim]``."""
    queries, keys, values = (tower.split_heads(part) for part in projected.chunk(3, dim=-1))
    return queries * queries.shape[-1] ** -0.5, keys, values


def _attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    own_keys: Tensor,
    own_values: Tensor,
    mask: Tensor,
    classes: int,
    hidden: Tensor | None,
) -> Tensor:
    """Return the attention of class tokens over all shared tokens and, by ``mask``, over their class's own tokens.

    queries ``[prompts, heads, classes * query tokens, head_dim]``; own_keys, own_values the same with all own tokens;
    keys, values ``[prompts, heads, shared tokens, head_dim]``; mask ``[(classes,) query tokens, own tokens]``; hidden:
    that of ``Prompts``.
    """
    shape = (classes, -1)
    own_scores = queries.unflatten(2, shape) @ own_keys.unflatten(2, shape).transpose(-1, -2) + mask
    shared_scores = queries @ keys.transpose(-1, -2)
    if hidden is not None:
        shared_scores = shared_scores + hidden.to(shared_scores.dtype)
    scores = torch.cat([shared_scores, own_scores.flatten(2, 3)], dim=-1)
    weights, own_weights = torch.softmax(scores, dim=-1).split([keys.shape[2], own_scores.shape[-1]], dim=-1)
    return weights @ values + (own_weights.unflatten(2, shape) @ own_values.unflatten(2, shape)).flatten(2, 3)
