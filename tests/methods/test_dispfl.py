from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.errors import ConfigError
from promptfleet.federation.conditions.privacy import check_noise_hides
from promptfleet.methods.dispfl import DisPFLConfig, averaged
from promptfleet.methods.parts.peers import peers_of
from promptfleet.methods.parts.side_by_side import run_alone
from promptfleet.methods.parts.sparse import dense, lowest
from promptfleet.methods.parts.sparse_layers import entries, moving
from promptfleet.methods.protocol import Call, Message
from tests.fakes import tiny_task
from tests.tiny_federation import ALL, equal, tiny_federation

NUMBERS = 3 * 16  # of a prompt of 3 tokens of width 16


def dispfl(**config):
    return tiny_federation("dispfl", **{"local_epochs": 1, **config})


def upload_of(fed, client):
    round_index = len(fed.history) + 1
    return fed.clients[client].train(round_index, fed.privates[client], fed.download(client)).upload


@pytest.mark.parametrize("regrow", ["gradient", "random"])
def test_a_mask_keeps_its_number_of_entries_and_the_step_is_zero_outside_of_it(regrow):
    fed = dispfl(regrow=regrow, density=0.3, rounds=9)
    moved = []
    for _ in range(3):
        fed.run([ALL])
        for private in fed.privates.values():
            assert private["mask"].sum() == private["sent_mask"].sum() == round(0.3 * NUMBERS)
            assert not private["delta"][~private["sent_mask"]].any()
            assert private["delta"][private["sent_mask"]].all()
            moved.append((private["mask"] & ~private["sent_mask"]).sum())
    assert min(moved) > 0


def test_dense_steps_of_all_peers_are_promptfl_with_the_plain_mean():
    fed = tiny_federation("dispfl", density=1.0, topology="full", weight_decay=0.0).run([ALL] * 3)
    plain = {"aggregation": "trimmed_mean", "trim_fraction": 0.0, "weight_decay": 0.0}  # every upload counts the same
    promptfl = tiny_federation("promptfl", **plain).run([ALL] * 3)
    for client in ALL:
        assert fed.privates[client]["mask"].all()
        task = tiny_task(fed.world, fed.privates[client], fed.download(client))
        assert torch.allclose(fed.server.state["context"] + averaged(task), promptfl.contexts[-1], atol=1e-5)


def test_dense_steps_without_peers_are_coop():
    fed = tiny_federation("dispfl", density=1.0, peers=0, weight_decay=0.0).run([ALL] * 2)
    coop = tiny_federation("coop", weight_decay=0.0).run([ALL] * 2)
    for client in ALL:
        assert torch.allclose(fed.logits(client), coop.logits(client), atol=1e-4)


def test_masks_move_less_with_each_round_and_not_at_all_after_the_last_one_or_without_anneal():
    world = dispfl(rounds=9, anneal=0.6).world
    counts = [moving(tiny_task(world, round_index=t)) for t in range(1, 10)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == np.ceil(0.3 * (1 + np.cos(np.pi / 9)) * NUMBERS / 2)
    assert counts[-1] == 0
    fed = dispfl(anneal=0.0)
    start = {client: private["mask"] for client, private in fed.privates.items()}
    fed.run([ALL] * 2)
    assert all(torch.equal(fed.privates[client]["mask"], start[client]) for client in ALL)


def test_the_smallest_values_go_and_the_largest_gradients_come():
    fed = dispfl(shuffle=False, batch_size=100, rounds=9).run([ALL])
    private, examples, clip = fed.privates[1], fed.examples(1), fed.world.clip
    delta, before, after = private["delta"], private["sent_mask"], private["mask"]
    step = delta.clone().requires_grad_()
    text = encode_prompts(clip.tower, clip.classes, (fed.server.state["context"] + step)[None])[0]
    F.cross_entropy(clip.logit_scale * examples.images.features @ text.T, examples.labels).backward()
    count = moving(replace(tiny_task(fed.world), client=1))
    order = delta.abs().masked_fill(~before, float("inf")).flatten().argsort()
    kept = before.flatten().clone()
    kept[order[:count]] = False
    gain = step.grad.abs().flatten().masked_fill(kept, -1.0)
    kept[gain.argsort(descending=True)[:count]] = True
    assert count > 0
    assert torch.equal(after.flatten(), kept)


def test_a_coordinate_is_the_mean_of_those_whose_mask_has_it():
    rng = torch.Generator().manual_seed(0)
    masks, values = torch.rand(3, 3, 16, generator=rng) < 0.5, torch.randn(3, 3, 16, generator=rng)
    masks[:, 0, 0] = False
    deltas = values * masks
    private = {"delta": deltas[2], "sent_mask": masks[2], "mask": masks[2]}
    download = Message({"peer_values": deltas[:2][masks[:2]], "peer_masks": masks[:2]})
    assert torch.equal(dense(*download.tensors.values()), deltas[:2])
    mean = averaged(tiny_task(dispfl().world, private, download))
    wanted = torch.from_numpy(np.ma.masked_array(values, ~masks).mean(axis=0).filled(0.0)).float()
    assert torch.allclose(mean, wanted, atol=1e-6)
    assert mean[0, 0] == 0
    everywhere = torch.ones_like(masks)
    private = {"delta": values[2], "sent_mask": everywhere[2], "mask": everywhere[2]}
    download = Message({"peer_values": values[:2].flatten(), "peer_masks": everywhere[:2]})
    assert torch.allclose(averaged(tiny_task(dispfl().world, private, download)), values.mean(dim=0), atol=1e-6)


def test_a_message_counts_the_values_under_the_mask_and_a_bit_per_number():
    fed = dispfl(density=0.25, peers=2).run([ALL])
    one = 4 * NUMBERS // 4 + NUMBERS // 8
    assert upload_of(fed, 0).num_bytes == one
    assert fed.download(0).num_bytes == 2 * one
    assert fed.server.select(1, [0], "evaluate")[0].num_bytes == 0
    assert fed.method.trained_parameters(fed.world) == NUMBERS // 4


def test_the_relay_passes_on_what_a_peer_sent_last_and_nothing_of_those_that_sent_nothing():
    fed = dispfl(topology="full", rounds=9)
    assert fed.download(0).num_bytes == 0
    fed.run([[0, 1]])
    sent = fed.download(2).tensors
    for place, client in enumerate([0, 1]):
        assert torch.equal(dense(*sent.values())[place], fed.privates[client]["delta"])
        assert torch.equal(sent["peer_masks"][place], fed.privates[client]["sent_mask"])
    assert len(fed.download(1).tensors["peer_masks"]) == 1
    assert torch.equal(fed.run([[1]]).download(1).tensors["peer_values"], sent["peer_values"][: NUMBERS // 2])


def test_peers_are_drawn_for_each_client_and_round_or_are_the_neighbours_or_all_others():
    def peers(client, round_index=1, **config):
        world = dispfl(clients=6, **config).world
        call = Call(world, round_index, [client], "train", np.random.default_rng(0))
        return peers_of(call, client, world.config.topology, world.config.peers)

    drawn = [peers(client, t, peers=2) for client in range(6) for t in (1, 2)]
    assert all(len(set(one)) == 2 for one in drawn)
    assert all(index // 2 not in one for index, one in enumerate(drawn))
    assert len({tuple(one) for one in drawn}) > 4
    assert peers(0, topology="ring") == [1, 5]
    assert peers(3, topology="ring") == [2, 4]
    assert peers(2, topology="full") == [0, 1, 3, 4, 5]


def test_one_client_alone_and_two_in_a_ring_run():
    for config in ({"clients": 1}, {"clients": 1, "topology": "ring"}, {"clients": 2, "topology": "ring"}):
        fed = dispfl(**config)
        fed.run([range(fed.world.config.clients)] * 2)
        assert torch.isfinite(fed.logits(0)).all()
        assert len(fed.download(0).tensors["peer_masks"]) == fed.world.config.clients - 1


def test_a_client_that_never_trained_predicts_with_the_common_prompt():
    fed = dispfl().run([[0]])
    assert torch.equal(fed.logits(1), dispfl().logits(0))
    assert not torch.allclose(fed.logits(0), fed.logits(1), atol=1e-4)


def test_masks_start_the_same_or_differ_and_densities_may_too():
    same, different = (dispfl(initial_masks=kind).privates for kind in ("same", "different"))
    assert all(torch.equal(same[client]["mask"], same[0]["mask"]) for client in ALL)
    assert not torch.equal(different[0]["mask"], different[1]["mask"])
    assert not torch.equal(same[0]["mask"], dispfl(seed=1).privates[0]["mask"])
    fed = dispfl(densities="mixed", clients=6)
    assert [int(fed.privates[i]["mask"].sum()) for i in range(6)] == [10, 19, 29, 38, 48, 10]
    assert [entries(fed.world, i) for i in range(6)] == [10, 19, 29, 38, 48, 10]
    fed.run([range(6)] * 2)
    assert upload_of(fed, 1).tensors["values"].shape == (19,)


def test_equal_scores_are_chosen_at_random():
    chosen = [lowest(torch.zeros(4, 5), 7, np.random.default_rng(seed)) for seed in range(3)]
    assert all(mask.sum() == 7 for mask in chosen)
    assert not torch.equal(chosen[0], chosen[1])
    assert lowest(torch.tensor([3.0, 1.0, 2.0]), 2, np.random.default_rng(0)).tolist() == [False, True, True]


@pytest.mark.parametrize(
    "change",
    [
        {"density": 0.4},
        {"densities": "mixed"},
        {"topology": "ring"},
        {"topology": "full"},
        {"peers": 2},
        {"anneal": 0.2},
        {"regrow": "random"},
        {"initial_masks": "different"},
        {"target": "adapter"},
    ],
    ids=str,
)
def test_each_option_changes_the_result(change):
    logits = [dispfl(**{"peers": 1, "rounds": 9, **config}).run([ALL] * 2).logits(0) for config in ({}, change)]
    assert not torch.allclose(*logits, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peers": 4, "clients": 4}, "peers=4 must be smaller than clients=4: a client has 3 others to average with"),
        ({"density": 1.5}, "density: got 1.5, should be less than or equal to 1"),
        ({"density": 0.0}, "density: got 0.0, should be greater than 0"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(values, message):
    with pytest.raises(ConfigError) as error:
        DisPFLConfig(method="dispfl", **values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


ADAPTER = {"target": "adapter", "adapter_width": 6, "adapter_lr": 0.1, "weight_decay": 0.0}


def test_the_matrices_of_an_adapter_are_sparse_layer_by_layer():
    fed = dispfl(density=0.25, rounds=9, **ADAPTER)
    images = fed.examples(0).images
    start = fed.world.clip.logit_scale * images.features @ fed.world.clip.zero_shot_text.T
    task = tiny_task(fed.world, fed.privates[0], fed.download(0))
    personal = replace(task, private=run_alone(fed.world, fed.method.personalize(task), "personalize"))
    assert torch.allclose(fed.method.predict(personal, images), start, atol=1e-4)  # the start is the identity
    fed.run([ALL] * 2)
    for private in fed.privates.values():
        assert private["delta"].shape == (2, 6 * 24)
        for mask in (private["mask"], private["sent_mask"]):
            assert mask.sum(dim=1).tolist() == [36, 36]
        assert not private["delta"][~private["sent_mask"]].any()
        assert (private["mask"] & ~private["sent_mask"]).any(dim=1).all()
    assert upload_of(fed, 0).num_bytes == 4 * 72 + 288 // 8
    assert fed.method.trained_parameters(fed.world) == 72
    order = [2, 0, 3, 1]
    there = replace(fed.world, clip=fed.world.clip.take(order))
    task = tiny_task(fed.world, fed.privates[0], fed.download(0))
    personal = replace(task, private=run_alone(fed.world, fed.method.personalize(task), "personalize"))
    reworded = run_alone(there, fed.method.reworded(personal, there), "reworded")
    wanted = fed.method.predict(personal, images)[:, order]
    assert torch.allclose(fed.method.predict(reworded, images), wanted, atol=1e-4)


def test_one_step_of_a_dense_adapter_follows_its_gradient():
    one_step = {"batch_size": 100, "shuffle": False, "momentum": 0.0, "anneal": 0.0}
    fed = dispfl(density=1.0, **ADAPTER, **one_step)
    start, examples = fed.server.state, fed.examples(1)
    down, up = (start[f"adapter.{name}"].clone().requires_grad_() for name in ("down", "up"))
    features = examples.images.features
    features = F.normalize(features + F.relu(features @ down.T) @ up.T, dim=-1)
    F.cross_entropy(fed.world.clip.logit_scale * features @ fed.world.clip.zero_shot_text.T, examples.labels).backward()
    moved = fed.run([[1]]).privates[1]["delta"]
    assert up.grad.norm() > 1e-3
    assert not moved[0].any()  # behind a second matrix of zeros the first has no gradient
    assert torch.allclose(moved[1].view_as(up), -0.1 * up.grad, atol=1e-6)


def test_privacy_has_no_noise_for_masks():
    fed = dispfl(privacy={"epsilon": 8.0})
    with pytest.raises(ConfigError, match=r"the method uploads mask of type torch\.bool"):
        check_noise_hides(fed.world.config, fed.method.uploads(fed.world))


def test_the_gradient_is_that_of_one_batch_and_no_step_follows():
    fed = dispfl().run([ALL])
    task = tiny_task(fed.world, fed.privates[0], fed.download(0), fed.examples(0), round_index=2)
    update = run_alone(fed.world, fed.method.local_update(task))
    again = run_alone(fed.world, fed.method.local_update(replace(task, rng=np.random.default_rng(0))))
    assert equal(update.private, again.private)
    unmoved = dispfl(anneal=0.0)
    plain = run_alone(
        unmoved.world, unmoved.method.local_update(replace(task, world=unmoved.world, rng=np.random.default_rng(0)))
    )
    assert torch.equal(update.private["delta"], plain.private["delta"])
