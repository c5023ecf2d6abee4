"""The texts that a method asks for are in its world, whichever configurations are prepared together."""

import pytest
import torch

import promptfleet
from promptfleet.errors import ConfigError, MethodError
from promptfleet.federation.prepare import prepare
from promptfleet.methods.parts.prompts import encode_frozen

DESCRIBED = "tests.federation.described:Described"


def test_each_configuration_has_its_own_texts(small_config):
    short, long, other = (
        small_config(method=DESCRIBED, template="{}."),
        small_config(method=DESCRIBED, template="a photo of a {}, written."),
        small_config(method="promptfl"),
    )
    prepared = prepare(short, long, other)
    worlds = [prepared.world(config) for config in (short, long, other)]
    assert [sorted(world.texts) for world in worlds] == [["described", "start"]] * 2 + [[]]
    context = torch.ones(2, prepared.clip.tower.width)
    features = [encode_frozen(world, context, "described") for world in worlds[:2]]
    assert torch.allclose(features[0], encode_frozen(worlds[0], context), atol=1e-6)  # "name." is what classes are
    assert not torch.allclose(features[0], features[1], atol=1e-4)
    assert worlds[0].texts["start"].lengths.tolist() == [5]  # four words and EOT


def test_a_federation_runs_with_texts(small_config):
    def accuracy(**config):
        values = small_config(method=DESCRIBED, rounds=1, **config).model_dump(exclude_unset=True)
        return promptfleet.run_federation(values | {"runtime": {"backend": "local"}})

    one, other = accuracy(), accuracy(template="one.")
    assert one.state_sha256 == other.state_sha256  # texts are for predictions alone
    assert [client.test_accuracy for client in one.clients] != [client.test_accuracy for client in other.clients]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("Unnamed", r"texts\(\) has a list 'classes', which is that of the class names"),
        ("Empty", "the list of texts 'words' is empty"),
    ],
)
def test_lists_that_cannot_be_meant_are_refused(small_config, method, message):
    name = f"tests.federation.described:{method}"
    with pytest.raises(MethodError, match=f"^method {name}: {message}$"):
        prepare(small_config(method=name))


def test_a_text_that_is_too_long_is_refused_before_anything_is_encoded(small_config):
    with pytest.raises(
        ConfigError, match=r"^described: text 'zero, very .*' has 83 tokens, .* 1 to 75 .*; shorten it$"
    ):
        prepare(small_config(method=DESCRIBED, template="{}," + " very" * 80 + "."))
