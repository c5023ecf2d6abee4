"""Unbalanced transport: its constraints, its limits, and POT's solution of the same problems."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfleet.methods.parts.optimal_transport import transport_plans

BATCH, PROMPTS, CLASSES, PATCHES = 3, 2, 4, 9


def similarities(seed=0, *, patches=PATCHES, prompts=PROMPTS, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(BATCH, prompts, CLASSES, patches, generator=generator, dtype=dtype) * 0.5 - 0.1


def plans_of(similarity, *, mass=0.8, epsilon=0.1, iterations=2000):
    plans, finite = transport_plans(similarity, mass=mass, epsilon=epsilon, iterations=iterations)
    assert finite.all()
    assert plans.shape == similarity.shape
    return plans


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    mass=st.floats(0.1, 0.95),
    epsilon=st.floats(0.03, 1.0),
    patches=st.integers(2, 30),
    prompts=st.integers(1, 3),
)
def test_prompts_get_their_mass_and_no_patch_gives_more_than_its_share(seed, mass, epsilon, patches, prompts):
    plans = plans_of(similarities(seed, patches=patches, prompts=prompts), mass=mass, epsilon=epsilon)
    assert (plans >= 0).all()
    assert (plans.sum(dim=3) - mass / prompts).abs().max() < 1e-6
    assert (plans.sum(dim=(1, 3)) - mass).abs().max() < 1e-6
    assert (plans.sum(dim=1) * patches).max() < 1 + 1e-5


@pytest.mark.parametrize("iterations", [1, 3])
def test_prompts_get_their_mass_also_where_iterations_end_too_early(iterations):
    plans = plans_of(similarities(), epsilon=0.01, iterations=iterations)
    assert (plans.sum(dim=3) - 0.4).abs().max() < 1e-6
    assert plans.sum(dim=1).max() * PATCHES > 1.1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), epsilon=st.floats(0.05, 1.0), mass=st.sampled_from([0.6, 1.0]), shift=st.floats(-5, 5))
def test_a_constant_in_the_cost_changes_nothing(seed, epsilon, mass, shift):
    similarity = similarities(seed, dtype=torch.float64)
    plans = plans_of(similarity, mass=mass, epsilon=epsilon)
    assert torch.allclose(plans_of(similarity + shift, mass=mass, epsilon=epsilon), plans, atol=1e-9)
    per_prompt = torch.tensor([shift, -1.0], dtype=torch.float64).view(1, 2, 1, 1)  # every prompt gets its mass anyway
    assert torch.allclose(plans_of(similarity + per_prompt, mass=mass, epsilon=epsilon), plans, atol=1e-9)


def test_a_mass_of_one_is_balanced_transport():
    """Both marginals are equalities, and log P + similarity / epsilon is a sum of a row's and a column's number."""
    similarity = similarities(dtype=torch.float64)
    plans = plans_of(similarity, mass=1.0)
    assert (plans.sum(dim=1) - 1 / PATCHES).abs().max() < 1e-6
    assert (plans.sum(dim=3) - 1 / PROMPTS).abs().max() < 1e-12
    duals = plans.log() - similarity / 0.1
    interaction = duals[:, 1] - duals[:, 0]
    assert (interaction - interaction[..., :1]).abs().max() < 1e-9


def test_a_mass_near_one_comes_near_balanced_transport():
    similarity = similarities(dtype=torch.float64)
    balanced = plans_of(similarity, mass=1.0)
    distances = [float((plans_of(similarity, mass=mass) - balanced).abs().max()) for mass in (0.9, 0.99, 0.999)]
    assert distances[0] > 4 * distances[1] > 16 * distances[2]


def test_patches_that_fit_no_prompt_are_left_out():
    similarity = torch.full((1, 2, 1, 10), 0.0)
    similarity[..., :2] = -1.0  # background
    plans = plans_of(similarity, mass=0.8, epsilon=0.05)
    assert plans.sum(dim=1)[0, 0, :2].max() < 1e-6
    assert torch.allclose(plans[..., 2:], torch.tensor(0.05), atol=1e-6)


def test_equal_patches_are_shared_equally():
    plans = plans_of(torch.full((2, 2, 3, 5), 0.3), mass=0.7)
    assert torch.allclose(plans, torch.tensor(0.7 / 10), atol=1e-7)


def test_a_large_epsilon_gives_the_uniform_plan_and_a_small_one_the_best():
    similarity = torch.tensor([[0.9, 0.1, 0.5, 0.2], [0.2, 0.8, 0.1, 0.6]]).view(1, 2, 1, 4)
    assert torch.allclose(plans_of(similarity, mass=0.5, epsilon=1e3), torch.tensor(0.0625), atol=1e-4)
    best = torch.tensor([[0.25, 0, 0, 0], [0, 0.25, 0, 0]]).view(1, 2, 1, 4)
    assert torch.allclose(plans_of(similarity, mass=0.5, epsilon=0.02), best, atol=1e-3)


def test_problems_do_not_touch_each_other():
    similarity = similarities(dtype=torch.float64)
    plans = plans_of(similarity)
    for image in range(BATCH):
        for label in range(CLASSES):
            alone = plans_of(similarity[image : image + 1, :, label : label + 1])
            assert torch.allclose(alone[0, :, 0], plans[image, :, label], rtol=0, atol=1e-6)


def test_where_floats_do_not_reach_the_plan_is_uniform_and_counted():
    similarity = similarities()
    similarity[1, 0, 2] = torch.tensor([2.0, *[-2.0] * (PATCHES - 1)])
    similarity[1, 1, 2] = similarity[1, 0, 2]
    plans, finite = transport_plans(similarity, mass=0.8, epsilon=0.012, iterations=2000)
    assert finite.sum() == BATCH * CLASSES - 1
    assert not finite[1, 2]
    assert torch.equal(plans[1, :, 2], torch.full((PROMPTS, PATCHES), 0.4 / PATCHES))
    assert (plans.sum(dim=3) - 0.4).abs().max() < 1e-6


def test_plans_are_constants_for_gradients():
    similarity = similarities().requires_grad_()
    plans, _ = transport_plans(similarity, mass=0.8, epsilon=0.1, iterations=50)
    assert not plans.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.02, 0.1])
@pytest.mark.parametrize("mass", [0.5, 0.8, 1.0])
def test_equals_pot(mass, epsilon):
    """POT (MIT licence): partial transport of the whole column mass is this problem, and solves one at a time."""
    ot = pytest.importorskip("ot", reason="POT is installed with the dev extra")
    similarity = similarities(seed=3, dtype=torch.float64)
    ours = plans_of(similarity, mass=mass, epsilon=epsilon, iterations=20000)
    per_patch, per_prompt = np.full(PATCHES, 1 / PATCHES), np.full(PROMPTS, mass / PROMPTS)
    for image in range(BATCH):
        for label in range(CLASSES):
            cost = 1 - similarity[image, :, label].T.numpy()
            if mass < 1:
                theirs = ot.partial.entropic_partial_wasserstein(
                    per_patch, per_prompt, cost, epsilon, m=mass, numItermax=20000, stopThr=1e-12
                )
            else:
                theirs = ot.sinkhorn(per_patch, per_prompt, cost, epsilon, numItermax=20000, stopThr=1e-12)
            assert np.abs(ours[image, :, label].T.numpy() - theirs).max() < 1e-6
