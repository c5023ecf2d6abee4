import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfleet.methods import fedamp
from promptfleet.methods.fedamp import cloud_prompt, cloud_weights
from tests.fakes import tiny_examples
from tests.tiny_federation import ALL, tiny_federation


def pool(seed=0, clients=5):
    return torch.randn(clients, 3, 4, generator=torch.Generator().manual_seed(seed)) * 0.02


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    trained=st.lists(st.booleans(), min_size=5, max_size=5),
    share=st.floats(0, 1),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_weights_sum_to_one_and_none_is_negative(seed, trained, share, scale):
    weights = cloud_weights(pool(seed) * scale, torch.tensor(trained), share)
    assert torch.allclose(weights.sum(dim=1), torch.ones(5, dtype=torch.float64), atol=1e-12)
    assert (weights >= -1e-15).all()
    others = weights - torch.diag(weights.diagonal())
    assert (others.sum(dim=1) <= share + 1e-12).all()
    assert (others[:, ~torch.tensor(trained)] == 0).all()


def test_nearer_prompts_weigh_more():
    prompts, everybody = pool(1), torch.ones(5, dtype=torch.bool)
    weights = cloud_weights(prompts, everybody, 0.5)
    for i in range(5):
        distance = (prompts - prompts[i]).flatten(1).norm(dim=1)
        others = sorted((j for j in range(5) if j != i), key=lambda j: distance[j])
        assert [*weights[i, others]] == sorted(weights[i, others], reverse=True)


def test_weights_depend_on_distances_only():
    everybody = torch.ones(5, dtype=torch.bool)
    flat = pool(2).double().flatten(1)
    rotation, _ = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    weights = cloud_weights(flat, everybody, 0.5)
    for moved in (flat @ rotation, flat + 3.0, -flat, 7 * flat):  # the scale is the median distance
        assert torch.allclose(cloud_weights(moved, everybody, 0.5), weights, atol=1e-9)


def test_the_published_formula_where_it_needs_no_guard():
    prompts, clients = pool(3).double(), 5
    squared = torch.stack([(prompts - one).flatten(1).square().sum(dim=1) for one in prompts])
    sigma = squared[tuple(torch.triu_indices(5, 5, 1))].median()
    alpha = 0.8 * sigma / (clients - 1)
    weights = cloud_weights(prompts, torch.ones(5, dtype=torch.bool), 0.8)
    for i in range(clients):
        xi = alpha / sigma * torch.exp(-squared[i] / sigma)
        xi[i] = 0
        wanted = (1 - xi.sum()) * prompts[i] + torch.einsum("j,jab->ab", xi, prompts)
        assert torch.allclose(cloud_prompt(prompts, weights[i], i), wanted, atol=1e-12)


@pytest.mark.parametrize("trained", [[True] * 5, [True, False, True, False, False], [False] * 5], ids=str)
def test_equal_prompts_are_their_own_cloud_prompt(trained):
    prompts = pool()[:1].repeat(5, 1, 1)
    weights = cloud_weights(prompts, torch.tensor(trained), 1.0)
    assert all(torch.equal(cloud_prompt(prompts, weights[i], i), prompts[i]) for i in range(5))


def test_without_others_and_without_pull_it_is_coop_round_by_round():
    fedamp = tiny_federation("fedamp", cloud_share=0.0, prox=0.0).run([ALL, [0, 2], ALL])
    coop = tiny_federation("coop").run([ALL, [0, 2], ALL])
    for i in ALL:
        assert torch.equal(fedamp.privates[i]["context"], coop.privates[i]["context"])
        assert torch.equal(fedamp.logits(i), coop.logits(i))


def test_a_download_is_the_clients_own_cloud_prompt():
    fed = tiny_federation("fedamp").run([[0, 1, 2]])
    state = fed.server.state
    assert state["pool.trained"].tolist() == [True, True, True, False]
    assert torch.equal(state["pool.context"][3], state["context"])
    weights = cloud_weights(state["pool.context"], state["pool.trained"], fed.world.config.cloud_share)
    clouds = [fed.download(i).tensors["context"] for i in ALL]
    assert all(torch.equal(clouds[i], cloud_prompt(state["pool.context"], weights[i], i)) for i in ALL)
    assert len({cloud.sum().item() for cloud in clouds}) == 4
    report = fed.clients[0].train(2, fed.privates[0], fed.download(0)).report
    assert report.uploaded_bytes == report.downloaded_bytes == 4 * 3 * 16


def test_who_never_trained_predicts_with_the_start_and_others_with_their_own():
    fed = tiny_federation("fedamp")
    start = fed.logits(3)
    fed.run([[0, 1, 2]] * 2)
    assert torch.equal(fed.logits(3), start)
    features = tiny_examples(fed.world, 8, seed=77).images.features
    assert torch.equal(fed.logits(1), 20.0 * features @ fed.privates[1]["text"].T)


def test_the_pull_has_a_gradient():
    fed = tiny_federation("fedamp", prox=0.0).run([ALL])
    loose, tight = (
        tiny_federation("fedamp", prox=prox).clients[0].train(2, fed.privates[0], fed.download(0)).private["context"]
        for prox in (0.0, 5.0)
    )
    cloud = fed.download(0).tensors["context"]
    assert (tight - cloud).norm() < 0.95 * (loose - cloud).norm()


def test_to_evaluate_no_cloud_prompt_is_mixed_and_none_is_needed(monkeypatch):
    fed = tiny_federation("fedamp").run([[0, 1, 2]])
    with_prompts, without = fed.server.select(1, ALL), fed.server.select(1, ALL, "evaluate")
    assert all(message.num_bytes == 0 for message in without.values())
    for i, client in fed.clients.items():  # client 3 never trained
        found = [client.evaluate(1, fed.privates[i], downloads[i]) for downloads in (with_prompts, without)]
        assert found[0] == found[1]
    monkeypatch.setattr(fedamp, "cloud_weights", None)
    assert fed.server.select(1, ALL, "evaluate").keys() == set(ALL)
