"""Checks of configurations against their dataset and backbone, before anything is encoded or trained."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from promptfleet.clip.frozen import FrozenClip
from promptfleet.config import FederationConfig
from promptfleet.data.partition import Partition
from promptfleet.errors import ConfigError
from promptfleet.features.class_prompts import check_prompt_fits
from promptfleet.federation.conditions.privacy import check_noise_hides, privacy_budget
from promptfleet.federation.evaluation.schedule import sets_of_best
from promptfleet.federation.evaluation.scores import NEW, transfer_to
from promptfleet.federation.other_datasets import OtherDataset
from promptfleet.federation.worlds import new_world_of, other_world_of, world_of
from promptfleet.limits import check_states
from promptfleet.methods import load_method
from promptfleet.methods.protocol import Needs, World


def check_worlds(
    config: FederationConfig,
    clip: FrozenClip,
    class_names: Sequence[str],
    others: Mapping[str, OtherDataset],
    **more: Any,
) -> None:
    """Check the method in all worlds of a federation, which have the arguments of ``world_of``.

    Raises:
        ConfigError: prompts do not fit the classes that clients have, or others that they will predict; the method
            does not fit; or noise cannot make its uploads private.
        ResourceError: what a client trains does not fit this machine.
    """
    method, world = load_method(config.method), world_of(config, clip, class_names, **more)
    _check_world(world)
    check_states(config, method.trained_parameters(world))
    uploads = method.uploads(world)
    check_noise_hides(config, uploads)
    if uploads:
        privacy_budget(config, method.participation)
    for source, foreign in _foreign_worlds(config, clip, class_names, others, **more):
        with errors_of(source):
            _check_world(foreign)


def _check_world(world: World) -> None:
    method = load_method(world.config.method)
    if method.has_prompt(world.config):
        check_prompt_fits(world)
    method.check(world)


def _foreign_worlds(
    config: FederationConfig,
    clip: FrozenClip,
    class_names: Sequence[str],
    others: Mapping[str, OtherDataset],
    **more: Any,
) -> Iterator[tuple[str, World]]:
    """Yield the worlds of classes that no client has and that the method will predict, and where they come from."""
    sets = sets_of_best(config)
    if NEW in sets and (world := new_world_of(config, clip, class_names, **more)):
        yield "partition.new_classes", world
    for name in config.evaluation.transfer:
        if transfer_to(name) in sets:
            yield of_transfer(name), other_world_of(config, clip, name, others[name], **more)


def of_transfer(name: str) -> str:
    """Return how an error names a dataset of ``evaluation.transfer``."""
    return f"evaluation.transfer, dataset {name}"


@contextmanager
def errors_of(source: str) -> Iterator[None]:
    """Put ``source`` before the text of a ConfigError."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def check_public(config: FederationConfig, partition: Partition) -> None:
    """Raise ConfigError if the federation's method needs public data and the partition has none."""
    if len(partition.public) or Needs.PUBLIC not in load_method(config.method).needs_of(config):
        return
    file = config.partition.file
    fix = "set" if file is None else f"partition.file={file} has none; make one with"
    raise ConfigError(
        f"method={config.method} needs images that the server has: {fix} partition.public_fraction, such as 0.1"
    )


def check_one_backbone(configs: Sequence[FederationConfig]) -> None:
    """Raise ConfigError if the federations would need CLIPs with different weights."""
    if configs[0].backbone.is_random and len({config.seed for config in configs}) > 1:
        raise ConfigError("backbone.pretrained=random draws other weights for each seed: give all federations one seed")
