"""Clients that attack: who they are, what they send, and what is told of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfleet.config import AdversaryConfig
from promptfleet.federation.conditions.adversaries import adversaries, attacked, flipped
from promptfleet.federation.conditions.steps import step_norm, step_of
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.rounds import Federation
from promptfleet.methods.parts.prompts import encode_frozen
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import Spec
from promptfleet.seeding import stream
from tests.fakes import tiny_world
from tests.tiny_federation import tiny_federation


def who(fraction, *, clients=10, seed=0):
    return adversaries(tiny_world(clients=clients, seed=seed, adversary={"fraction": fraction}).config)


@settings(max_examples=60, deadline=None)
@given(fraction=st.floats(0, 0.99), clients=st.integers(1, 30), seed=st.integers(0, 5))
def test_the_fraction_attacks_and_somebody_is_honest(fraction, clients, seed):
    drawn = who(fraction, clients=clients, seed=seed)
    assert len(drawn) == min(round(fraction * clients), clients - 1)
    assert drawn <= set(range(clients))


def test_who_attacks_depends_on_the_seed():
    assert who(0.2) == who(0.2)
    assert len({who(0.2, seed=seed) for seed in range(5)}) > 1


def upload_and_download():
    rng = torch.Generator().manual_seed(0)
    download = {"context": torch.randn(3, 4, generator=rng), "gate.a": torch.randn(5, generator=rng)}
    return {name: tensor + 0.1 for name, tensor in download.items()}, download


def test_a_flipped_sign_is_the_own_step_turned_round_and_scaled():
    upload, download = upload_and_download()
    sent = attacked(AdversaryConfig(kind="sign_flip", scale=4.0), upload, download, stream(0, "attack"))
    for name in upload:
        assert torch.allclose(sent[name], download[name] - 0.4, atol=1e-6)
        assert sent[name].dtype == torch.float32


def test_noise_is_as_long_as_the_own_step_times_the_scale_and_drawn_anew_each_round():
    upload, download = upload_and_download()
    config = AdversaryConfig(kind="noise", scale=3.0)
    one, two = (attacked(config, upload, download, stream(0, "attack", client=1, round_index=r)) for r in (1, 2))
    assert step_norm(step_of(one, download)) == pytest.approx(3 * step_norm(step_of(upload, download)), rel=1e-5)
    assert not torch.allclose(one["context"], two["context"])


@pytest.mark.parametrize("kind", ["sign_flip", "noise"])
def test_counts_and_masks_are_sent_as_they_are(kind):
    upload, download = upload_and_download()
    others = {"mask": torch.tensor([True, False]), "count": torch.tensor([3, 4])}
    sent = attacked(AdversaryConfig(kind=kind), upload | others, download, stream(0, "attack"))
    assert sent.keys() == upload.keys() | others.keys()
    assert not torch.allclose(sent["context"], upload["context"])
    for name, tensor in others.items():
        assert sent[name].dtype == tensor.dtype
        assert torch.equal(sent[name], tensor)
    assert attacked(AdversaryConfig(kind=kind), others, download, stream(0, "attack")) == others


@pytest.mark.parametrize("kind", ["sign_flip", "noise"])
def test_an_upload_without_numbers_is_sent_as_it_is(kind):
    """A template of hard text alone has no context to train."""
    upload = {"context": torch.empty(0, 16)}
    assert attacked(AdversaryConfig(kind=kind), upload, upload, np.random.default_rng(0)) is upload


def test_a_client_sends_what_the_attack_makes_of_its_update_and_keeps_what_it_learned():
    honest = tiny_federation()
    attacker = tiny_federation(adversary={"fraction": 0.25, "kind": "sign_flip", "scale": 2.0})
    (bad,) = adversaries(attacker.world.config)
    for client in range(4):
        good, sent = (
            fed.clients[client].train(1, fed.privates[client], fed.download(client)) for fed in (honest, attacker)
        )
        start = attacker.download(client).tensors["context"]
        learned = good.upload.tensors["context"]
        expected = start - 2 * (learned - start) if client == bad else learned
        context = sent.upload.tensors["context"]
        assert torch.allclose(context, expected, atol=1e-6)
        assert torch.equal(sent.private["context"], good.private["context"])
        text = sent.upload.attached["text"]
        assert torch.allclose(text, encode_frozen(attacker.world, context), atol=1e-6)


def test_an_attack_leaves_what_is_not_trained_as_it_is(monkeypatch):
    uploads = []
    for trained in (True, False):
        monkeypatch.setattr(PromptFL, "uploads", lambda _, world, it=trained: {"context": Spec((3, 16), trained=it)})
        fed = tiny_federation("promptfl", adversary={"fraction": 0.25, "scale": 2.0})
        (bad,) = adversaries(fed.world.config)
        uploads.append(fed.clients[bad].train(1, {}, fed.download(bad)).upload.tensors["context"])
    start = fed.download(bad).tensors["context"]
    assert torch.allclose(uploads[0] - start, -2 * (uploads[1] - start), atol=1e-6)
    assert not torch.equal(uploads[1], start)


def test_wrong_labels_are_the_adversarys_alone_and_mirror_the_right_ones():
    assert flipped(torch.tensor([0, 1, 9]), 10).tolist() == [9, 8, 0]
    honest, attacker = (
        tiny_federation("promptfl"),
        tiny_federation("promptfl", adversary={"fraction": 0.25, "kind": "label_flip"}),
    )
    (bad,) = adversaries(attacker.world.config)
    for client in range(4):
        losses = [
            fed.clients[client].train(1, {}, fed.download(client)).report.metrics["loss"] for fed in (honest, attacker)
        ]
        assert (losses[0] == losses[1]) is (client != bad)
        evaluations = [fed.clients[client].evaluate(0, {}, fed.download(client)) for fed in (honest, attacker)]
        assert evaluations[0] == evaluations[1]  # on the right labels


def run(config, prepared):
    federation = Federation(config, prepared, LocalFleet(prepared))
    while federation.rounds_done < config.rounds:
        federation.run_round()
    return federation.result()


@pytest.mark.slow
def test_the_result_says_who_attacked_and_what_the_others_reached(small_config, prepared):
    values = {"clients": 5, "participation": 1.0, "method": "promptfl", "prompt_lr": 0.1}
    clean = run(small_config(**values), prepared)
    result = run(small_config(**values, adversary={"fraction": 0.4, "scale": 20.0}), prepared)
    assert result.state_sha256 != clean.state_sha256
    assert (clean.adversaries, clean.honest_test_accuracy) == ([], pytest.approx(clean.test_accuracy))
    honest = [client.test_accuracy for client in result.clients if client.id not in result.adversaries]
    assert len(honest) == 3
    assert result.honest_test_accuracy == result.rounds[-1].honest_test_accuracy == pytest.approx(sum(honest) / 3)
    honest_val = [report.honest_val_accuracy for report in result.rounds]
    assert result.best_round == 1 + honest_val.index(max(honest_val))
    events = [str(event) for report in result.rounds for event in report.events]
    one, two = result.adversaries
    assert events == [f"train: clients {one}, {two}: adversary.kind=sign_flip; attack simulated"]
    assert run(small_config(**values, adversary={"fraction": 0.4, "scale": 20.0}), prepared).state_sha256 == (
        result.state_sha256
    )
