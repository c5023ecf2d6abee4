"""pFedPT: a shared prompt, and a frame of pixels around the images that each client trains and keeps.

Source: Li, Wu, Wang, Shi et al.: "Visual Prompt Based Personalized Federated Learning", arXiv:2303.08678. With
f_v(x) = norm(image_encoder(x + Frame(v))) the logits are s f_v(x) T(P)^T. A client first trains its frame v with the
prompt P fixed, then P with v fixed, both by cross-entropy. The server averages P; v is never sent.
Differs: the shared part is a prompt of a frozen CLIP, where the paper trains a whole network; frames start at zero, so
that the first forward pass is CLIP's own (published: N(0, 1), ``frame_std=1``). The frame is added after CLIP's
normalization, without clipping, as in the published code. Optimizers are fresh in each local update, and have the
federation's momentum.
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from promptfleet.errors import ConfigError
from promptfleet.methods.parts.images import encode_images
from promptfleet.methods.parts.training import detached, leaves, steps
from promptfleet.methods.promptfl import PromptFL, PromptFLConfig
from promptfleet.methods.protocol import (
    EncodeImages,
    Examples,
    Images,
    Message,
    Needs,
    State,
    Task,
    Update,
    Work,
    World,
)


class PFedPTConfig(PromptFLConfig):
    """Configuration of pFedPT."""

    frame_width: int = Field(2, ge=1, description="width of the frame in pixels (published: 2, of images of 32 x 32)")
    frame_std: float = Field(0.0, ge=0, description="standard deviation of a frame's first values (published: 1)")
    frame_lr: float = Field(1.0, ge=0, description="learning rate of the frame (published: 1)")
    frame_epochs: int = Field(
        1, ge=0, description="local epochs of the frame, before those of the prompt (published: 5)"
    )


class PFedPT(PromptFL):
    """One averaged prompt and private frames.

    Server state, down and up as in PromptFL: the ``context``. Private state: the four strips of the frame, ``top`` and
    ``bottom`` [3, frame_width, width], ``left`` and ``right`` [3, height - 2 frame_width, frame_width], and
    ``participations``. A client that never trained predicts without a frame.
    """

    Config = PFedPTConfig
    needs = PromptFL.needs | Needs.PIXELS

    def check(self, world: World) -> None:
        height, width = world.image_tower.image_size
        most = (min(height, width) - 1) // 2
        if world.config.frame_width > most:
            raise ConfigError(
                f"frame_width={world.config.frame_width} does not fit: images of {world.config.backbone.label} have "
                f"{height} x {width} pixels; set it to {most} or less"
            )

    def init_client(self, world: World, client: int, rng: np.random.Generator) -> State:
        frame = {name: rng.normal(0.0, world.config.frame_std, shape) for name, shape in strip_shapes(world).items()}
        strips = {name: torch.from_numpy(strip.astype(np.float32)) for name, strip in frame.items()}
        return {**strips, "participations": torch.tensor(0)}

    def local_update(self, task: Task) -> Work[Update]:
        frame, metrics = yield from self._train_frame(task)
        images = Images((yield from _features(task, frame)))
        prompted = replace(task, train=replace(task.train, images=images))
        trained = yield from self.train_context(prompted, task.download.tensors["context"])
        private = {**frame, "participations": task.private["participations"] + 1}
        metrics = {f"frame_{name}": value for name, value in metrics.items()}
        return Update(private, Message({"context": trained.context}), {**metrics, **trained.metrics})

    def _train_frame(self, task: Task) -> Work[tuple[State, dict[str, float]]]:
        """Train the frame with the downloaded prompt; the first phase."""
        frame, text = leaves({name: task.private[name] for name in strip_shapes(task.world)}), task.download.attached

        def loss(batch: Examples) -> Work[Tensor]:
            features = yield EncodeImages(batch.images.pixels.load() + whole_frame(frame))
            return F.cross_entropy(self.logits(task, Images(features), text["text"]), batch.labels)

        optimizer = self.optimizer(task, frame, task.config.frame_lr)
        metrics = yield from steps(task, optimizers=[optimizer], loss=loss, epochs=task.config.frame_epochs)
        return detached(frame), metrics

    def trained_parameters(self, world: World) -> int:
        strips = sum(torch.Size(shape).numel() for shape in strip_shapes(world).values())
        return super().trained_parameters(world) + strips

    def personalize(self, task: Task) -> State:
        """Return the frame, of zeros for a client that never trained."""
        return {name: task.private[name] * (task.private["participations"] > 0) for name in strip_shapes(task.world)}

    def server_model(self, task: Task) -> State:
        """Return a frame of zeros: the global prompt alone."""
        return {name: torch.zeros_like(task.private[name]) for name in strip_shapes(task.world)}

    def features(self, task: Task, images: Images) -> Tensor:
        """Return the features of images in the frame of the private state; without pixels, they have it already."""
        if images.pixels is None:
            return images.features
        return encode_images(task.world, images.pixels.load() + whole_frame(task.private))


def strip_shapes(world: World) -> dict[str, tuple[int, int, int]]:
    """Return the shape of each strip of a frame by its name."""
    (height, width), thick = world.image_tower.image_size, world.config.frame_width
    lying, standing = (3, thick, width), (3, height - 2 * thick, thick)
    return {"top": lying, "bottom": lying, "left": standing, "right": standing}


def whole_frame(strips: State) -> Tensor:
    """Return Frame(v) [3, height, width], with zeros within the strips."""
    left, right, width = strips["left"], strips["right"], strips["top"].shape[2]
    inner = left.new_zeros(3, left.shape[1], width - 2 * left.shape[2])
    return torch.cat([strips["top"], torch.cat([left, inner, right], dim=2), strips["bottom"]], dim=1)


def _features(task: Task, frame: State) -> Work[Tensor]:
    """Return the features of all training images in the frame, computed once for the second phase."""
    frame, batches = whole_frame(frame), []
    for rows in torch.arange(len(task.train), device=task.world.device).split(task.config.batch_size):
        batches.append((yield EncodeImages(task.train.images[rows].pixels.load() + frame)))
    return torch.cat(batches)
