"""The frozen text side of CLIP for one set of classes, which all clients share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from promptfleet.clip.prompt_layout import ClassTokens
from promptfleet.clip.text_tower import TextTower

_TOWER, _TEXTS = "tower.", "texts."


@dataclass(frozen=True)
class FrozenClip:
    """Text tower, class tokens and zero-shot text features of one (backbone, classes) pair.

    ``zero_shot_text [classes, dim]`` are unit-norm features of the dataset's hand-written template; ``logit_scale`` is
    CLIP's exp(logit_scale). The tower has no token table, since all texts are tokenized already: the classes and, by
    ``texts_key``, further lists of ``texts``.
    """

    tower: TextTower
    classes: ClassTokens
    zero_shot_text: Tensor
    logit_scale: float
    texts: Mapping[str, ClassTokens] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> "FrozenClip":
        texts = {key: tokens.to(device) for key, tokens in self.texts.items()}
        tower, classes, zero_shot_text = (part.to(device) for part in (self.tower, self.classes, self.zero_shot_text))
        return FrozenClip(tower, classes, zero_shot_text, self.logit_scale, texts)

    def take(self, labels: Sequence[int]) -> "FrozenClip":
        """Return the same CLIP for some of the classes, in the order of ``labels``."""
        chosen = torch.tensor(labels, device=self.zero_shot_text.device)
        classes = ClassTokens(self.classes.start, self.classes.suffix[chosen], self.classes.lengths[chosen])
        return replace(self, classes=classes, zero_shot_text=self.zero_shot_text[chosen])

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name; with ``settings`` they are the whole value, see ``from_tensors``."""
        return {
            **{_TOWER + name: tensor for name, tensor in self.tower.weights.items()},
            "start": self.classes.start,
            "suffix": self.classes.suffix,
            "lengths": self.classes.lengths,
            "zero_shot_text": self.zero_shot_text,
            **{f"{_TEXTS}{key}.suffix": tokens.suffix for key, tokens in self.texts.items()},
            **{f"{_TEXTS}{key}.lengths": tokens.lengths for key, tokens in self.texts.items()},
        }

    def settings(self) -> dict[str, int | bool | float]:
        return {
            "layers": self.tower.layers,
            "heads": self.tower.heads,
            "quick_gelu": self.tower.quick_gelu,
            "logit_scale": self.logit_scale,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], settings: dict[str, int | bool | float]) -> "FrozenClip":
        weights = {name.removeprefix(_TOWER): tensor for name, tensor in tensors.items() if name.startswith(_TOWER)}
        tower = TextTower(weights, settings["layers"], settings["heads"], settings["quick_gelu"])
        start = tensors["start"]
        texts = {
            name.split(".")[1]: ClassTokens(start, suffix, tensors[f"{name.removesuffix('suffix')}lengths"])
            for name, suffix in tensors.items()
            if name.startswith(_TEXTS) and name.endswith(".suffix")
        }
        classes = ClassTokens(start, tensors["suffix"], tensors["lengths"])
        return cls(tower, classes, tensors["zero_shot_text"], settings["logit_scale"], texts)
