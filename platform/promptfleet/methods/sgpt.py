"""SGPT: shared and group-specific tokens within the image tower, and a key per group that chooses for each image.

Source: Deng, Thrampoulidis, Li: "Unlocking the Potential of Prompt-Tuning in Bridging Generalized and Personalized
Federated Learning", CVPR 2024 (arXiv:2310.18285). Before each of the first n_s blocks comes a shared token V_s, before
each of the next n_g blocks the token V_g of the group that an image chooses: with q(x) = relu of the frozen tower's
class token and sim_g = cos(q, K_g), g* = argmin (1 - sim_g), in training (1 - sim_g) (p_g + floor) once groups have
been chosen in the shares p. A client trains V_s without groups, then V_g and the keys K by CE - mean sim_{g*}. The
server averages V_s and V_g, and K_g by how often each client chose g; V_g and K keep a share of their old values.
Differs: a frozen CLIP compares the feature with text features of the dataset's template, in place of a trained head.
All clients of a round see the counts of its start; published, later ones see those of earlier ones. The option of
queries with the current shared tokens is left out.
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from promptfleet.clip.vision_tower import vision_tower_of
from promptfleet.config import FederationConfig
from promptfleet.errors import BackboneError, ConfigError
from promptfleet.methods.parts.images import class_tokens, encode_images
from promptfleet.methods.parts.prompt_method import PromptMethod
from promptfleet.methods.parts.token_groups import all_tokens, penalized_choice, shared_tokens, similarities, uses
from promptfleet.methods.parts.training import detached, leaves, steps
from promptfleet.methods.protocol import (
    Arrived,
    Call,
    EncodeImages,
    Examples,
    Images,
    Message,
    Needs,
    Spec,
    State,
    Task,
    Update,
    Work,
    World,
)

ENOUGH_USES = 50  # of a group in a round, for its key to be averaged by uses


class SGPTConfig(FederationConfig):
    """Configuration of SGPT. ``local_epochs`` counts each of the two stages."""

    prompt_lr: float = Field(0.001, gt=0, description="learning rate of tokens and keys (published: 0.01)")
    groups: int = Field(4, ge=1, description="G, number of groups (published: 20 for 100 clients, 4 for 4)")
    shared_blocks: int = Field(
        2, ge=0, description="number of first blocks with a shared token (published: 4 or 5 of 12)"
    )
    group_blocks: int = Field(
        2, ge=1, description="number of blocks after them with a token of the group (published: 3 or 2)"
    )
    query_blocks: int | None = Field(
        None, ge=1, description="number of first blocks that make the query; default: all (published: all, or 6 of 12)"
    )
    batch_vote: bool = Field(False, description="the images of a batch train the group that most of them choose")
    group_momentum: float = Field(0.5, ge=0, le=1, description="m, share of the old group tokens (published: 0.5 or 0)")
    key_momentum: float = Field(0.5, ge=0, le=1, description="share of the old keys (published: 0.5 or 0)")
    penalty_floor: float = Field(5e-4, gt=0, description="added to a group's share of the choices so far")


class SGPT(PromptMethod):
    """A global model that adapts to each image; clients keep nothing.

    Server state, and down: ``shared`` [shared_blocks, 1, width], ``group`` [group_blocks, groups, width], ``keys``
    [groups, width], and how often each group was chosen, ``counts`` [groups]. Up: the same, counts of this round.
    """

    Config = SGPTConfig
    needs = Needs.PIXELS

    def has_prompt(self, config: SGPTConfig) -> bool:
        return False

    def check(self, world: World) -> None:
        config, tower = world.config, world.image_tower
        try:
            vision = vision_tower_of(tower.weights, tower.architecture, config.backbone.label)
        except BackboneError as error:
            raise ConfigError(f"method={config.method} puts tokens into a vision transformer: {error}") from None
        blocks = config.shared_blocks + config.group_blocks
        for name, count, most in (
            ("shared_blocks + group_blocks", blocks, vision.layers),
            ("query_blocks", config.query_blocks or 1, vision.layers),
            ("groups", config.groups, vision.width),
        ):
            if count > most:
                what = "orthogonal keys" if name == "groups" else "blocks"
                raise ConfigError(
                    f"{name}={count} does not fit: the image tower of {config.backbone.label} has room for {most} "
                    f"{what}; set {'it' if count != blocks else 'them'} to {most} or less"
                )

    def init_server(self, world: World, rng: np.random.Generator) -> State:
        vision, config = world.image_tower.vision, world.config
        bound = (6 / (3 * vision.patch_pixels + vision.width)) ** 0.5
        group = rng.uniform(-bound, bound, (config.group_blocks, config.groups, vision.width))
        keys, _ = np.linalg.qr(rng.standard_normal((vision.width, config.groups)))
        return {
            "shared": torch.zeros(config.shared_blocks, 1, vision.width),
            "group": torch.from_numpy(group.astype(np.float32)),
            "keys": torch.from_numpy(np.ascontiguousarray(keys.T, dtype=np.float32)),
            "counts": torch.zeros(config.groups, dtype=torch.int64),
        }

    def select(self, server: State, call: Call) -> dict[int, Message]:
        return call.to_all(Message(dict(server)))

    def local_update(self, task: Task) -> Work[Update]:
        tokens, counts = dict(task.download.tensors), torch.zeros_like(task.download.tensors["counts"])
        text, config = task.world.clip.zero_shot_text, task.config

        def cross_entropy(features: Tensor, batch: Examples) -> Tensor:
            return F.cross_entropy(self.logits(task, Images(features), text), batch.labels)

        def shared_loss(batch: Examples) -> Work[Tensor]:
            inserted = shared_tokens(shared["shared"], len(batch))
            return cross_entropy((yield EncodeImages(batch.images.pixels.load(), inserted)), batch)

        def group_loss(batch: Examples) -> Work[Tensor]:
            similarity = similarities(batch.images.features, group["keys"])
            chosen = penalized_choice(similarity.detach(), tokens["counts"], config.penalty_floor)
            if config.batch_vote:
                chosen = uses(chosen, config.groups).argmax().expand(len(batch))
            counts.add_(uses(chosen, config.groups))
            inserted = all_tokens(tokens["shared"], group["group"], chosen)
            own = similarity.gather(1, chosen.unsqueeze(1)).mean()
            features = yield EncodeImages(batch.images.pixels.load(), inserted, pooled=1 + config.group_blocks)
            return cross_entropy(features, batch) - own

        shared = leaves({"shared": tokens["shared"]})
        metrics = {}
        if config.shared_blocks:
            optimizers = [self.optimizer(task, shared, config.prompt_lr)]
            found = yield from steps(task, optimizers=optimizers, loss=shared_loss)
            metrics = {f"shared_{name}": value for name, value in found.items()}
        tokens |= detached(shared)
        group = leaves({name: tokens[name] for name in ("group", "keys")})
        asked = replace(task, train=replace(task.train, images=with_queries(task, task.train.images)))
        found = yield from steps(asked, optimizers=[self.optimizer(task, group, config.prompt_lr)], loss=group_loss)
        upload = Message({**tokens, **detached(group), "counts": counts})
        return Update(task.private, upload, {**metrics, **found})

    def uploads(self, world: World) -> dict[str, Spec]:
        config, width = world.config, world.image_tower.vision.width
        return {
            "shared": Spec((config.shared_blocks, 1, width)),
            "group": Spec((config.group_blocks, config.groups, width)),
            "keys": Spec((config.groups, width)),
            "counts": Spec((config.groups,), torch.int64),
        }

    def aggregate(self, server: State, arrived: Arrived) -> State:
        config, counts = arrived.world.config, arrived.sent("counts")
        total = torch.stack(list(counts.values())).sum(dim=0)
        keys = torch.stack([_mean_key(arrived, group, total) for group in range(config.groups)])
        mean = arrived.mean(names=("shared", "group"))
        return {
            "shared": mean["shared"],
            "group": torch.lerp(mean["group"], server["group"], config.group_momentum),
            "keys": torch.lerp(keys, server["keys"], config.key_momentum),
            "counts": server["counts"] + total,
        }

    def predict(self, task: Task, images: Images) -> Tensor:
        return self.logits(task, images, task.world.clip.zero_shot_text)

    def features(self, task: Task, images: Images) -> Tensor:
        """Return the features of images with the tokens of the groups that they choose; without pixels, as they are."""
        if images.pixels is None:
            return images.features
        tokens, pixels = task.download.tensors, images.pixels.load()
        inserted = all_tokens(tokens["shared"], tokens["group"], _choice(task, pixels))
        return encode_images(task.world, pixels, inserted, pooled=1 + task.config.group_blocks)

    def describe(self, task: Task, images: Images) -> State:
        """Return the share of the images that choose each group, ``group_shares`` [groups]."""
        batches = torch.arange(len(images), device=task.world.device).split(task.config.batch_size)
        chosen = torch.cat([_choice(task, images[rows].pixels.load()) for rows in batches])
        return {"group_shares": uses(chosen, task.config.groups) / len(images)}

    def reworded(self, task: Task, world: World) -> Task:
        return replace(task, world=world)

    def server_model(self, task: Task) -> State:
        """Return an empty state: the model is the server's."""
        return {}


def with_queries(task: Task, images: Images) -> Images:
    """Return the images with queries ``[images, width]`` in the place of features, computed once for all epochs."""
    rows = torch.arange(len(images), device=task.world.device).split(task.config.batch_size)
    queries = torch.cat([_queries(task, images[some].pixels.load()) for some in rows])
    return replace(images, features=queries)


def _queries(task: Task, pixels: Tensor) -> Tensor:
    return F.relu(class_tokens(task.world, pixels, task.config.query_blocks))


def _choice(task: Task, pixels: Tensor) -> Tensor:
    """Return the group of each image ``[images]`` for a prediction, which depends on that image alone."""
    return similarities(_queries(task, pixels), task.download.tensors["keys"]).argmax(dim=1)


def _mean_key(arrived: Arrived, group: int, total: Tensor) -> Tensor:
    """Return the mean of a group's keys ``[width]``, weighted by uses if there are enough."""
    weights = {client: float(counts[group]) for client, counts in arrived.sent("counts").items()}
    return arrived.mean(weights if total[group] > ENOUGH_USES else "equal", names=("keys",))["keys"][group]
