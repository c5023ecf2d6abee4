"""The frozen text side of CLIP for one set of classes, which all clients share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from promptfleet.clip.prompt_layout import ClassTokens
from promptfleet.clip.text_tower import TextTower

_TOWER = "tower."


@dataclass(frozen=True)
class FrozenClip:
    """Text tower, class tokens and zero-shot text features of one (backbone, classes) pair.

    ``zero_shot_text [classes, dim]`` are unit-norm features of the dataset's hand-written template; ``logit_scale`` is
    CLIP's exp(logit_scale). The tower has no token table, since all texts are tokenized already.
    """

    tower: TextTower
    classes: ClassTokens
    zero_shot_text: Tensor
    logit_scale: float

    def to(self, device: torch.device | str) -> "FrozenClip":
        return FrozenClip(
            self.tower.to(device), self.classes.to(device), self.zero_shot_text.to(device), self.logit_scale
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name; with ``settings`` they are the whole value, see ``from_tensors``."""
        return {
            **{_TOWER + name: tensor for name, tensor in self.tower.weights.items()},
            "start": self.classes.start,
            "suffix": self.classes.suffix,
            "lengths": self.classes.lengths,
            "zero_shot_text": self.zero_shot_text,
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
        classes = ClassTokens(tensors["start"], tensors["suffix"], tensors["lengths"])
        return cls(tower, classes, tensors["zero_shot_text"], settings["logit_scale"])
