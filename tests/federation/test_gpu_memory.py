"""GPU memory of an actor, and the error of a client that runs out of it. No GPU is needed."""

from dataclasses import replace

import pytest
import torch
from ray.exceptions import RayActorError

from promptfleet.clip.activations import activation_bytes
from promptfleet.clip.backbone import load_backbone
from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.clip.vision_tower import encode_pixels
from promptfleet.config import BackboneConfig
from promptfleet.errors import FederationError, ResourceError
from promptfleet.federation import gpu_memory
from promptfleet.federation.gpu_memory import (
    GIB,
    ActorMemory,
    explaining_full_memory,
    measured_memory,
    what_fits,
)
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.on_ray.processes import _why_not
from promptfleet.federation.rounds import Federation
from promptfleet.methods.parts.side_by_side import side_by_side
from promptfleet.methods.promptfl import PromptFL
from tests.fakes import tiny_classes, tiny_tower, tiny_world


def test_activations_are_those_that_torch_keeps():
    """One layer alone, where only EOT goes past the keys and values."""
    tower = tiny_tower(layers=1)
    classes = tiny_classes(tower)
    one, four, longer = (
        activation_bytes(tower, classes, (count, size, 16)) for count, size in ((1, 3), (4, 3), (1, 9))
    )
    assert four == pytest.approx(4 * one, rel=0.1)
    kept: dict[int, torch.Tensor] = {}
    assert one < longer
    frozen = {
        tensor.untyped_storage().data_ptr() for tensor in (*tower.weights.values(), classes.suffix, classes.start)
    }

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in frozen:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encode_prompts(tower, classes, torch.zeros(1, 3, 16, requires_grad=True))
    assert sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) == one


def test_an_actor_is_counted_with_the_clients_that_step_together(small_config, prepared):
    one, packed = (ActorMemory.of(small_config(runtime={"clients_per_actor": n}), prepared) for n in (1, 3))
    assert (one.side_by_side, packed.side_by_side) == (1, 3)
    assert packed.step == pytest.approx(3 * one.step, rel=0.1)
    assert one.weights == packed.weights == prepared.weights_bytes()
    assert one.bytes == GIB // 2 + one.weights + one.step
    alone = small_config(runtime={"clients_per_actor": 3, "batch_steps": False})
    assert ActorMemory.of(alone, prepared).step == one.step


def test_the_table_can_be_read():
    for entry in measured_memory().values():
        assert 0 < entry.cuda_gib * GIB < entry.actor_bytes


@pytest.mark.parametrize(
    ("total_gib", "needed_gib", "advice"),
    [
        (80, 9.5, "use resources.client.gpu=0.125 or more"),
        (80, 70, "use resources.client.gpu=1 or more"),
        (80, 159, "use runtime.clients_per_actor=5 or less, or runtime.batch_steps=false"),
        (2, 40, "use precision=bfloat16, a smaller batch_size or a larger GPU"),
    ],
)
def test_the_advice_is_what_would_fit(total_gib, needed_gib, advice):
    assert what_fits(total_gib * GIB, int(needed_gib * GIB), side_by_side=10).startswith(advice)


@pytest.fixture
def full(monkeypatch):
    """A GPU of 8 GiB of which this process has held three."""
    monkeypatch.setattr(gpu_memory, "gpu_sizes", lambda: [8 * GIB])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * GIB)
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of ...")


def test_out_of_memory_is_one_line(full):
    with pytest.raises(ResourceError) as caught, explaining_full_memory(side_by_side=4):
        raise full
    assert str(caught.value) == (
        "out of GPU memory: 3.5 GiB or more, and what CUDA takes, are needed in this process by 4 client(s) at a time; "
        "use resources.client.gpu=0.5 or more, with runtime.clients_per_actor for fewer actors"
    )


def test_a_client_that_runs_out_of_memory_stops_the_federation_with_that_line(
    monkeypatch, small_config, prepared, full
):
    def local_update(self, *_):
        raise full
        yield

    monkeypatch.setattr(PromptFL, "local_update", local_update)
    config = small_config(method="promptfl", runtime={"on_client_failure": "fail"})
    federation = Federation(config, prepared, LocalFleet(prepared))
    with pytest.raises(FederationError, match=r"^train: client \d: raised ResourceError: out of GPU memory: 3\.5 GiB"):
        federation.run_round()


def test_weights_that_do_not_fit_are_one_line_as_well():
    class Failed(RayActorError):
        def __str__(self):
            return "The actor died\n  File ...\npromptfleet.errors.ResourceError: out of GPU memory: 9 GiB\n"

    assert str(_why_not(Failed())) == "out of GPU memory: 9 GiB"
    assert _why_not(RayActorError()) is None


def test_activations_of_an_image_are_about_those_that_torch_keeps():
    tower = load_backbone(BackboneConfig()).image_tower.vision
    frozen = {tensor.untyped_storage().data_ptr() for tensor in tower.weights.values()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in frozen:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encode_pixels(tower, torch.zeros(8, 3, 32, 32, requires_grad=True))
    counted = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert 8 * tower.activation_bytes == pytest.approx(counted, rel=0.3)


@pytest.mark.parametrize(("batch_size", "together"), [(4, 16), (2_500, 1)])
def test_fewer_clients_step_together_where_their_images_take_memory(batch_size, together):
    tower = load_backbone(BackboneConfig()).image_tower
    world = replace(tiny_world(batch_size=batch_size), image_tower=tower)
    assert side_by_side(world) == together
    assert side_by_side(replace(world, image_tower=None)) == 16
