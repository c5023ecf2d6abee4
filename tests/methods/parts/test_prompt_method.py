"""The seams: a plug-in over any method changes that method alone, and nothing where it is an identity."""

from functools import cache

import pytest
import torch

from promptfleet.federation.client import train_together
from promptfleet.methods import METHODS
from promptfleet.methods.parts.states import unprefixed
from tests.tiny_federation import ALL, equal, tiny_federation

COHORTS = [ALL, [0, 2, 3]]
TRAINED = sorted(set(METHODS) - {"zero_shot"})
REFUSED_BY_AMSGRAD = {"coop", "linear_probe", "dispfl", "fedjets", "fedlalr", "fed_mp"}
SOME = ["promptfl", "fedpgp", "pfedmoap"]


def each(names):
    """Return methods by name as parameters; all but some of them, which are many together, are slow."""
    return [pytest.param(name, marks=[] if name in SOME else pytest.mark.slow) for name in sorted(names)]


@cache  # tests only read
def run(plug_in, name, **config):
    small = {"local_epochs": 1, "batch_size": 8, "prompt_length": 2, **config}
    return tiny_federation(f"tests.methods.plug_ins:{plug_in}_{name}" if plug_in else name, **small).run(COHORTS)


@pytest.mark.parametrize("name", each(METHODS))
def test_every_method_scores_by_the_seam(name):
    plain, same = run(None, name), run("Offsets", name, offset=0.0)
    assert plain.sha256() == same.sha256()
    pulled = run("Offsets", name, offset=100.0)
    assert all(pulled.logits(client).argmax(dim=1).eq(3).all() for client in ALL)
    if name in TRAINED:
        assert pulled.sha256() != plain.sha256()  # the loss is of these scores, too


@pytest.mark.parametrize("name", each(TRAINED))
def test_every_method_sees_the_features_of_the_seam(name):
    plain, fixed = run(None, name), run("Channels", name, channel_lr=0.0)
    assert equal(fixed.server.state, plain.server.state)
    assert all(torch.equal(fixed.logits(client), plain.logits(client)) for client in ALL)
    trained = run("Channels", name)
    weights = [private["channels.weight"] for private in trained.privates.values()]
    assert not torch.equal(weights[0], torch.ones_like(weights[0]))
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(trained.logits(0), plain.logits(0))
    assert trained.method.uploads(trained.world) == plain.method.uploads(plain.world)


@pytest.mark.parametrize("name", each(set(TRAINED) - REFUSED_BY_AMSGRAD))
def test_the_state_of_an_optimizer_travels_with_what_it_trains(name):
    fed = run("LocalAMSGrad", name)
    shared = [key for key, spec in run(None, name).method.uploads(fed.world).items() if spec.is_point]
    moments = unprefixed("moments.", fed.server.state)
    assert moments.keys() == {f"{kind}.{key}" for kind in ("mean", "largest") for key in shared}
    floor = fed.world.config.eps**2
    for key in shared:
        assert moments[f"mean.{key}"].abs().max() > 0
        assert (moments[f"largest.{key}"] >= floor * (1 - 1e-6)).all()
    assert any((moments[f"largest.{key}"] > 2 * floor).any() for key in shared)
    download, upload = fed.download(0), fed.method.uploads(fed.world)
    assert {f"moments.{key}" for key in moments} <= download.tensors.keys()
    assert not any(key.startswith("moments.") for private in fed.privates.values() for key in private)
    assert fed.method.trained_parameters(fed.world) == run(None, name).method.trained_parameters(fed.world)
    assert not any(upload[f"moments.{key}"].is_point for key in moments)


@pytest.mark.parametrize("name", SOME)
def test_an_option_of_the_optimizer_changes_the_states(name):
    shas = {run("LocalAMSGrad", name, **option).sha256() for option in ({}, {"beta1": 0.5}, {"eps": 1e-2})}
    assert len({*shas, run(None, name).sha256()}) == 4


@pytest.mark.parametrize("plug_in", ["LocalAMSGrad", "Channels", "Offsets"])
@pytest.mark.parametrize("name", SOME)
def test_side_by_side_a_plug_in_gives_the_same_bits_as_one_after_the_other(plug_in, name):
    fed = run(plug_in, name)
    downloads = fed.server.select(3, ALL)
    together = train_together(list(fed.clients.values()), 3, fed.privates, downloads)
    for i, client in fed.clients.items():
        alone = client.train(3, fed.privates[i], downloads[i])
        assert equal(alone.private, together[i].private)
        assert equal(alone.upload.tensors, together[i].upload.tensors)
