import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from promptfleet.clip.image_tower import ImageTower
from promptfleet.clip.vision_tower import encode_pixels, encode_tokens
from promptfleet.errors import ConfigError
from promptfleet.methods.parts.token_groups import penalized_choice, similarities, uses
from promptfleet.methods.protocol import Message
from tests.fakes import tiny_arrived, tiny_examples, tiny_task
from tests.tiny_federation import ALL, tiny_federation

ONE_STEP = {"batch_size": 100, "shuffle": False, "momentum": 0.0, "weight_decay": 0.0, "prompt_lr": 0.05}


def sgpt(**config):
    return tiny_federation("sgpt", **{"local_epochs": 1, **config})


def after_update(fed, client=1):
    return fed.clients[client].train(len(fed.history) + 1, fed.privates[client], fed.download(client))


def test_a_step_of_each_stage_follows_the_formulas():
    """Shared tokens step by the cross-entropy of the class token; then group tokens and keys, with the choice."""
    fed = sgpt(**ONE_STEP).run([ALL])
    examples, start, tower = fed.examples(1), fed.server.state, fed.world.image_tower.vision
    pixels, text, scale = examples.images.pixels.load(), fed.world.clip.zero_shot_text, fed.world.clip.logit_scale
    trained = after_update(fed)
    upload = trained.upload.tensors

    shared = start["shared"].clone().requires_grad_()
    features = encode_pixels(tower, pixels, {0: shared[0].expand(8, -1, -1)})
    loss = F.cross_entropy(scale * features @ text.T, examples.labels)
    loss.backward()
    stepped = (shared - 0.05 * shared.grad).detach()
    assert torch.allclose(upload["shared"], stepped, atol=1e-6)
    assert not torch.allclose(stepped, start["shared"], atol=1e-5)
    assert trained.report.metrics["shared_loss"] == pytest.approx(loss.item(), abs=1e-4)

    group, keys = (start[name].clone().requires_grad_() for name in ("group", "keys"))
    queries = encode_tokens(tower, pixels)[:, 0].relu()
    similarity = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T
    shares = start["counts"] / start["counts"].sum()
    chosen = ((1 - similarity) * (shares + 5e-4)).argmin(dim=1)
    tokens = {0: stepped[0].expand(8, -1, -1), 1: group[0][chosen].unsqueeze(1)}
    features = encode_pixels(tower, pixels, tokens, pooled=2)
    own = similarity[range(8), chosen].mean()
    loss = F.cross_entropy(scale * features @ text.T, examples.labels) - own
    loss.backward()
    for name, leaf in (("group", group), ("keys", keys)):
        assert torch.allclose(upload[name], leaf - 0.05 * leaf.grad, atol=1e-5)
        assert not torch.allclose(upload[name], start[name], atol=1e-5)
    assert upload["counts"].tolist() == torch.bincount(chosen, minlength=4).tolist()
    assert trained.report.metrics["loss"] == pytest.approx(loss.item(), abs=1e-4)


def test_counts_are_those_of_all_samples_of_the_second_stage():
    fed = sgpt(local_epochs=3)
    assert after_update(fed, 2).upload.tensors["counts"].sum() == 3 * 10
    fed.run([[0, 1], [2]])
    assert fed.server.state["counts"].sum() == 3 * (6 + 8 + 10)
    assert fed.server.state["counts"].dtype == torch.int64


def test_groups_that_were_chosen_often_are_chosen_less():
    similarity = torch.tensor([[0.9, 0.2, 0.1], [0.0, 0.1, 0.3]])
    assert penalized_choice(similarity, torch.zeros(3), 5e-4).tolist() == [0, 2]
    assert penalized_choice(similarity, torch.tensor([7, 7, 7]), 5e-4).tolist() == [0, 2]
    # of group 0: 0.1 * 1.0005, of group 1: 0.8 * 0.0005
    assert penalized_choice(similarity, torch.tensor([9, 0, 0]), 5e-4).tolist() == [1, 2]
    assert penalized_choice(similarity, torch.tensor([9, 0, 0]), 5.0).tolist() == [0, 2]
    assert uses(torch.tensor([2, 0, 2]), 4).tolist() == [1, 0, 2, 0]


def test_a_query_of_zeros_is_as_near_to_each_key():
    assert similarities(torch.zeros(1, 3), torch.eye(3)).tolist() == [[0, 0, 0]]


def test_keys_are_averaged_by_uses_where_there_are_enough_and_old_values_keep_a_share():
    fed = sgpt(group_momentum=0.25, key_momentum=0.5)
    old, rng = fed.server.state, np.random.default_rng(0)

    def upload(counts):
        drawn = {name: torch.from_numpy(rng.normal(size=old[name].shape).astype(np.float32)) for name in tensors}
        return Message({**drawn, "counts": torch.tensor(counts)})

    tensors = ("shared", "group", "keys")
    sent = {0: upload([60, 0, 30, 1]), 3: upload([20, 0, 20, 9])}
    new = fed.method.aggregate(old, tiny_arrived(fed.world, sent, {0: 1, 3: 3}))
    a, b = (sent[client].tensors for client in (0, 3))
    assert torch.allclose(new["shared"], 0.25 * a["shared"] + 0.75 * b["shared"], atol=1e-6)
    mean = 0.25 * a["group"] + 0.75 * b["group"]
    assert torch.allclose(new["group"], 0.25 * old["group"] + 0.75 * mean, atol=1e-6)
    weights = torch.tensor([[0.75], [0.5], [0.5], [0.5]])  # 80 uses; none; exactly 50; 10
    mean = weights * a["keys"] + (1 - weights) * b["keys"]
    assert torch.allclose(new["keys"], 0.5 * old["keys"] + 0.5 * mean, atol=1e-6)
    assert new["counts"].tolist() == [80, 0, 50, 10]


def test_a_momentum_of_one_keeps_the_old_values():
    fed = sgpt(group_momentum=1.0, key_momentum=1.0)
    old = fed.server.state
    fed.run([ALL])
    assert torch.equal(fed.server.state["group"], old["group"])
    assert torch.equal(fed.server.state["keys"], old["keys"])
    assert not torch.equal(fed.server.state["shared"], old["shared"])


def test_with_one_group_all_images_have_the_same_tokens():
    """Then it is deep visual prompt tuning: keys have no effect on predictions."""
    fed = sgpt(groups=1, group_momentum=0.0).run([ALL])
    state, images = fed.server.state, tiny_examples(fed.world, 8, seed=77).images
    tokens = {0: state["shared"][0].expand(8, -1, -1), 1: state["group"][0].expand(8, -1, -1)}
    features = encode_pixels(fed.world.image_tower.vision, images.pixels.load(), tokens, pooled=2)
    wanted = fed.world.clip.logit_scale * features @ fed.world.clip.zero_shot_text.T
    assert torch.allclose(fed.logits(2), wanted, atol=1e-4)


def test_an_image_is_predicted_alike_whatever_others_there_are():
    fed = sgpt().run([ALL])
    task, images = tiny_task(fed.world, {}, fed.download(0)), tiny_examples(fed.world, 8, seed=77).images
    together = fed.method.predict(task, images)
    alone = torch.cat([fed.method.predict(task, images[torch.tensor([row])]) for row in range(8)])
    assert torch.allclose(together, alone, atol=1e-5)
    shares = fed.method.describe(task, images)["group_shares"]
    assert shares.sum() == pytest.approx(1)


def test_keys_start_orthogonal_shared_tokens_at_zero_and_group_tokens_within_the_bound():
    state, width = sgpt().server.state, 16
    assert torch.allclose(state["keys"] @ state["keys"].T, torch.eye(4), atol=1e-6)
    assert not state["shared"].any()
    bound = (6 / (3 * 16 + width)) ** 0.5  # patches of 4 x 4 pixels
    assert 0.8 * bound < state["group"].abs().max() <= bound


def test_what_is_sent_is_the_tokens_the_keys_and_the_counts():
    fed = sgpt()
    assert fed.download(0).num_bytes == after_update(fed, 0).upload.num_bytes == 4 * 16 * (1 + 4 + 4) + 8 * 4
    assert fed.method.trained_parameters(fed.world) == 16 * (1 + 4 + 4)


@cache
def sha256_of(**option):
    return sgpt(local_epochs=2, **option).run([ALL, ALL]).sha256()


@pytest.mark.parametrize(
    "option",
    [
        {"groups": 3},
        {"shared_blocks": 0},
        {"shared_blocks": 0, "group_blocks": 2},
        {"query_blocks": 1},
        {"batch_vote": True},
        {"group_momentum": 0.9},
        {"key_momentum": 0.0},
        {"penalty_floor": 10.0},
        {"prompt_lr": 0.01},
    ],
    ids=str,
)
def test_each_option_changes_the_result(option):
    assert sha256_of(**option) != sha256_of()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"shared_blocks": 2}, "shared_blocks + group_blocks=3 does not fit: the image tower of glyph-clip has room "),
        ({"query_blocks": 3}, "query_blocks=3 does not fit: the image tower of glyph-clip has room for 2 blocks; set"),
        ({"groups": 17}, "groups=17 does not fit: the image tower of glyph-clip has room for 16 orthogonal keys; set"),
    ],
)
def test_more_tokens_than_there_is_room_for_are_refused(config, message):
    fed = sgpt()
    fed.method.check(fed.world)
    world = replace(fed.world, config=fed.world.config.model_copy(update=config))
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        fed.method.check(world)


def test_a_resnet_is_refused_by_name():
    fed = sgpt()
    resnet = ImageTower({}, {"vision_cfg": {"layers": [3, 4, 6, 3]}}, {"size": 224})
    message = (
        r"^method=sgpt puts tokens into a vision transformer: backbone 'glyph-clip': its image tower is a Modified"
    )
    with pytest.raises(ConfigError, match=message):
        fed.method.check(replace(fed.world, image_tower=resnet))
