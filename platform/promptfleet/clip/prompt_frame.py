"""Places of a context's vectors among the hard tokens of a template."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Frame:
    """Tokens of a template around a class's text.

    The first ``before`` of them come before the text, the others after it and before EOT. ``sources [tokens]`` is the
    vector of the context that is at the place of a token, or ``vectors``, their number, for a hard one; a vector can
    have several places. ``base [tokens, width]`` is added there: the embedding of a hard token, the embedding that a
    learnable vector starts from, or zeros.
    """

    before: int
    vectors: int
    sources: Tensor
    base: Tensor

    @property
    def with_start(self) -> Tensor:
        """True for each vector ``[vectors]`` of a context that is added to an embedding."""
        based = torch.zeros(self.vectors + 1, dtype=torch.bool, device=self.base.device)
        based[self.sources[(self.base != 0).any(dim=-1)]] = True
        return based[: self.vectors]

    def to(self, device: torch.device | str) -> "Frame":
        return replace(self, sources=self.sources.to(device), base=self.base.to(device))

    def around(self, contexts: Tensor) -> Tensor:
        """Put contexts ``[..., vectors, width]`` into their places: ``[..., tokens, width]``.

        Raises ValueError: they have another number of vectors.
        """
        given = contexts.shape[-2]
        if given != self.vectors:
            raise ValueError(f"a context of {given} vectors does not fit a template with places for {self.vectors}")
        nothing = contexts.new_zeros(*contexts.shape[:-2], 1, contexts.shape[-1])
        return torch.cat([contexts, nothing], dim=-2).index_select(-2, self.sources) + self.base
