from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from promptfleet.errors import ConfigError
from promptfleet.methods.parts.images import encode_images
from promptfleet.methods.parts.prompts import encode_frozen
from promptfleet.methods.pfedpt import strip_shapes, whole_frame
from promptfleet.methods.promptfl import PromptFL, PromptFLConfig
from promptfleet.methods.protocol import Needs
from tests.fakes import tiny_examples, tiny_task
from tests.tiny_federation import ALL, equal, tiny_federation

STRIPS = ("top", "bottom", "left", "right")
ONE_STEP = {"local_epochs": 1, "batch_size": 100, "shuffle": False, "momentum": 0.0, "weight_decay": 0.0}


def pfedpt(**config):
    return tiny_federation("pfedpt", **{"local_epochs": 1, "frame_width": 2, **config})


def frame_of(state):
    return {name: state[name] for name in STRIPS}


class OnPixels(PromptFL):
    """PromptFL on features that are encoded at each use."""

    Config = PromptFLConfig
    needs = Needs.PIXELS

    def features(self, task, images):
        return encode_images(task.world, images.pixels.load())


@pytest.mark.parametrize("fixed", [{"frame_epochs": 0}, {"frame_lr": 0.0, "shuffle": False}], ids=str)
def test_with_a_fixed_frame_of_zeros_it_is_promptfl_bit_for_bit(fixed):
    cohorts = [ALL, [0, 2]]
    fed = pfedpt(**fixed).run(cohorts)
    promptfl = tiny_federation(f"{__name__}:OnPixels", local_epochs=1, shuffle=fixed.get("shuffle", True)).run(cohorts)
    for ours, theirs in zip(fed.contexts, promptfl.contexts, strict=True):
        assert torch.equal(ours, theirs)
    assert all(torch.equal(fed.logits(client), promptfl.logits(client)) for client in ALL)


def test_a_frame_is_zero_within_its_strips():
    fed = pfedpt(frame_std=1.0)
    strips = frame_of(fed.privates[0])
    frame = whole_frame(strips)
    assert frame.shape == (3, 8, 8)
    assert not frame[:, 2:-2, 2:-2].any()
    assert torch.equal(frame[:, :2], strips["top"])
    assert torch.equal(frame[:, -2:], strips["bottom"])
    assert torch.equal(frame[:, 2:-2, :2], strips["left"])
    assert torch.equal(frame[:, 2:-2, -2:], strips["right"])
    assert sum(strip.numel() for strip in strips.values()) == 6 * 2 * (8 + 8 - 2 * 2)
    assert fed.method.trained_parameters(fed.world) == 144 + 3 * 16
    assert not equal(strips, frame_of(fed.privates[1]))


def test_the_frame_takes_a_step_first_and_the_prompt_one_with_that_frame():
    fed = pfedpt(frame_std=0.5, frame_lr=2.0, **ONE_STEP)
    examples, private, world = fed.examples(1), fed.privates[1], fed.world
    pixels, text = examples.images.pixels.load(), fed.download(1).attached["text"]
    trained = fed.clients[1].train(1, private, fed.download(1))

    frame = {name: strip.clone().requires_grad_() for name, strip in frame_of(private).items()}
    features = world.image_tower(pixels + whole_frame(frame))
    loss = F.cross_entropy(world.clip.logit_scale * features @ text.T, examples.labels)
    loss.backward()
    for name, strip in frame.items():
        stepped = strip - 2.0 * strip.grad
        assert torch.allclose(trained.private[name], stepped, atol=1e-5)
        assert not torch.allclose(trained.private[name], strip, atol=1e-3)
    assert trained.report.metrics["frame_loss"] == pytest.approx(loss.item(), abs=1e-5)

    again = world.image_tower(pixels + whole_frame(frame_of(trained.private)))
    second = F.cross_entropy(world.clip.logit_scale * again @ text.T, examples.labels)
    assert trained.report.metrics["loss"] == pytest.approx(second.item(), abs=1e-5)
    assert not torch.equal(trained.upload.tensors["context"], fed.download(1).tensors["context"])


def test_a_client_predicts_with_its_own_frame_and_without_one_before_it_trained():
    fed = pfedpt(frame_std=1.0).run([[0, 1]])
    pixels = tiny_examples(fed.world, 8, seed=77).images.pixels.load()
    text = encode_frozen(fed.world, fed.server.state["context"])
    frames = {client: whole_frame(frame_of(fed.privates[client])) for client in (0, 1)}
    for client, frame in {**frames, 2: torch.zeros(3, 8, 8)}.items():
        wanted = fed.world.clip.logit_scale * fed.world.image_tower(pixels + frame) @ text.T
        assert torch.allclose(fed.logits(client), wanted, atol=1e-4)
    assert not torch.allclose(fed.logits(0), fed.logits(1), atol=1e-2)
    task = tiny_task(fed.world, fed.privates[0], fed.download(0))
    task = replace(task, private=fed.method.server_model(task))
    assert torch.equal(fed.method.predict(task, tiny_examples(fed.world, 8, seed=77).images), fed.logits(2))


def test_a_frame_is_never_sent():
    fed = pfedpt()
    upload = fed.clients[0].train(1, fed.privates[0], fed.download(0)).upload
    assert upload.tensors.keys() == {"context"}
    assert upload.num_bytes == 4 * 3 * 16


@pytest.mark.parametrize("option", [{"frame_width": 1}, {"frame_std": 0.1}, {"frame_lr": 5.0}, {"frame_epochs": 2}])
def test_each_option_changes_the_result(option):
    default, changed = pfedpt().run([[0]]), pfedpt(**option).run([[0]])
    assert not torch.allclose(default.logits(0), changed.logits(0), atol=1e-5)


def test_a_frame_that_leaves_nothing_of_the_image_is_refused():
    fed = pfedpt(frame_width=3)
    fed.method.check(fed.world)
    assert strip_shapes(fed.world)["left"] == (3, 2, 3)
    config = fed.world.config.model_copy(update={"frame_width": 4})
    message = r"^frame_width=4 does not fit: images of glyph-clip have 8 x 8 pixels; set it to 3 or less$"
    with pytest.raises(ConfigError, match=message):
        fed.method.check(replace(fed.world, config=config))
