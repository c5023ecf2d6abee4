"""Public examples: the server has them, no client does, and a method that needs them is refused without."""

import numpy as np
import pytest

import promptfleet
from promptfleet.data.samples import Samples
from promptfleet.errors import ConfigError
from promptfleet.federation.client_examples import public_examples
from promptfleet.federation.partitioning import partition_for
from promptfleet.federation.prepare import prepare
from promptfleet.methods.protocol import Needs

SERVED = "tests.federation.served:Served"


def run(small_config, **values):
    config = small_config(method=SERVED, rounds=1, **values)
    return promptfleet.run_federation(config.model_dump(exclude_unset=True) | {"runtime": {"backend": "local"}})


def test_a_server_trains_on_them(small_config):
    public = {"public_fraction": 0.1}
    tuned, plain = run(small_config, partition=public), run(small_config, partition=public, server_lr=0.0)
    assert tuned.state_sha256 != plain.state_sha256
    more = run(small_config, partition={"public_fraction": 0.2})
    assert more.state_sha256 != tuned.state_sha256


def test_the_server_has_the_examples_of_the_partition(small_config):
    config = small_config(method=SERVED, partition={"public_fraction": 0.1})
    prepared = prepare(config)
    store = prepared.open_store()
    partition = partition_for(config, Samples.of_store(store, prepared.class_names))
    examples = public_examples(prepared.world(config), store, partition.public)
    assert len(examples) == round(0.1 * len(store.labels))
    assert np.array_equal(examples.labels.numpy(), store.labels[partition.public])
    assert np.array_equal(examples.images.features.numpy(), store.features[partition.public])
    assert public_examples(prepared.world(config), store, partition.public[:0]) is None


def test_a_method_that_needs_them_is_refused_without(small_config):
    wanted = rf"^method={SERVED} needs images that the server has: set partition.public_fraction, such as 0.1$"
    with pytest.raises(ConfigError, match=wanted):
        prepare(small_config(), small_config(method=SERVED))


def test_needs_add_up():
    both = Needs.PATCHES | Needs.PUBLIC
    assert [need for need in Needs if need in both and need is not Needs.GLOBAL] == [Needs.PATCHES, Needs.PUBLIC]
    assert Needs.PUBLIC not in Needs.GLOBAL


@pytest.mark.ray
def test_actors_have_public_examples_and_texts_and_give_the_same_bits(ray_session, small_config):
    method, partition = "tests.federation.served:ServedAndDescribed", {"public_fraction": 0.1}
    values = small_config(method=method, rounds=1, partition=partition).model_dump(exclude_unset=True)
    ray, local = (promptfleet.run_federation(values | {"runtime": {"backend": name}}) for name in ("ray", "local"))
    assert ray.state_sha256 == local.state_sha256
    assert [client.test_accuracy for client in ray.clients] == [client.test_accuracy for client in local.clients]
