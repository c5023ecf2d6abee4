from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfleet.methods.parts.gates import AttentionGate, LinearGate, gate_tensors, init_gate, reduce_width

WIDTH, HEADS, BATCH, CLASSES = 8, 2, 5, 3


def attention(heads=HEADS, temperature=0.1, width=WIDTH):
    return AttentionGate(width, heads, temperature)


def gate_and_features(experts=4, width=WIDTH, seed=0):
    rng = np.random.default_rng(seed)

    def unit(*shape):
        return F.normalize(torch.from_numpy(rng.normal(size=shape).astype(np.float32)), dim=-1)

    return init_gate(attention(width=width), rng), unit(BATCH, width), unit(experts, CLASSES, width)


def textbook_scores(gate, image, experts, *, heads, temperature):
    """The formula with its loops: per image, class and head an attention over experts, then W_o, then the dot."""

    def project(name, x):
        return gate[f"gate.{name}.weight"] @ x + gate[f"gate.{name}.bias"]

    rows = []
    for f in image:
        for label in range(experts.shape[1]):
            q = project("query", f).chunk(heads)
            keys = [project("key", expert[label]).chunk(heads) for expert in experts]
            values = [project("value", expert[label]).chunk(heads) for expert in experts]
            mixture = []
            for h in range(heads):
                attention = torch.softmax(torch.stack([q[h] @ key[h] for key in keys]) / temperature, dim=0)
                mixture.append(sum(a * value[h] for a, value in zip(attention, values, strict=True)))
            rows.append(f @ project("output", torch.cat(mixture)))
    return torch.stack(rows).view(len(image), experts.shape[1])


def test_number_of_parameters():
    gate = init_gate(attention(width=6), np.random.default_rng(0))
    assert sum(tensor.numel() for tensor in gate.values()) == 4 * (6 * 6 + 6)
    assert {tensor.dtype for tensor in gate.values()} == {torch.float32}


def test_starts_uniform_like_a_linear_layer():
    values = torch.cat(
        [tensor.flatten() for tensor in init_gate(attention(width=64), np.random.default_rng(0)).values()]
    )
    assert values.abs().max() <= 0.125  # 1 / sqrt(64)
    assert values.std() == pytest.approx(0.25 / 12**0.5, rel=0.02)
    assert abs(values.mean()) < 0.005


def test_reduced_width_keeps_every_nth_entry_as_it_is():
    features = torch.arange(12.0).view(1, 12)
    assert reduce_width(features, 4).tolist() == [[0, 3, 6, 9]]
    assert reduce_width(features, 12).tolist() == features.tolist()


def test_width_that_does_not_divide_gives_as_many_entries_as_asked():
    assert reduce_width(torch.arange(14.0), 4).tolist() == [0, 3, 6, 9]


@settings(max_examples=40, deadline=None)
@given(experts=st.integers(1, 6), heads=st.sampled_from([1, 2, 4, 8]), temperature=st.floats(0.02, 10))
def test_weights_sum_to_one_over_experts(experts, heads, temperature):
    weights = attention(heads, temperature).weights(*gate_and_features(experts))
    assert weights.shape == (BATCH, CLASSES, heads, experts)
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(dim=-1), torch.ones(BATCH, CLASSES, heads), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations([1, 2, 3, 4]), seed=st.integers(0, 99))
def test_order_of_non_local_experts_does_not_matter(order, seed):
    gate, image, experts = gate_and_features(5, seed=seed)
    scores = attention().scores(gate, image, experts)
    permuted = attention().scores(gate, image, experts[[0, *order]])
    assert torch.allclose(permuted, scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_equal_experts_count_exactly_the_same(count):
    gate, image, experts = gate_and_features(1)
    copies = experts.expand(count, -1, -1)
    weights = attention().weights(gate, image, copies)
    assert torch.equal(weights, torch.full_like(weights, 1 / count))
    one = attention().scores(gate, image, experts)
    many = attention().scores(gate, image, copies)
    assert torch.allclose(many, one, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("heads", "temperature", "experts"), [(1, 1.0, 1), (2, 0.1, 4), (4, 0.3, 2), (8, 3.0, 6)])
def test_equals_the_textbook_formula_with_gradients(heads, temperature, experts):
    gate, image, text = gate_and_features(experts, seed=heads)
    probe = torch.linspace(-1, 1, BATCH * CLASSES).view(BATCH, CLASSES)
    gradients = []
    ours = attention(heads, temperature).scores
    textbook = partial(textbook_scores, heads=heads, temperature=temperature)
    for formula in (ours, textbook):
        inputs = {name: tensor.clone().requires_grad_() for name, tensor in {**gate, "text": text}.items()}
        scores = formula(inputs, image, inputs["text"])
        (scores * probe).sum().backward()
        gradients.append({"scores": scores.detach(), **{name: tensor.grad for name, tensor in inputs.items()}})
    ours, theirs = gradients
    for name, wanted in theirs.items():
        assert torch.allclose(ours[name], wanted, rtol=1e-5, atol=1e-6), name


def test_small_temperature_picks_the_largest_and_a_large_one_averages():
    gate, image, experts = gate_and_features(4)
    sharp, medium, flat = (
        attention(HEADS, temperature).weights(gate, image, experts) for temperature in (1e-6, 0.1, 1e6)
    )
    assert torch.allclose(sharp, F.one_hot(medium.argmax(dim=-1), 4).float(), atol=1e-5)
    assert torch.allclose(flat, torch.full_like(flat, 0.25), atol=1e-5)
    assert (medium.max(dim=-1).values > 0.25).all()
    assert (medium.max(dim=-1).values < 1).all()


def test_extreme_logits_stay_finite():
    gate, image, experts = gate_and_features(3)
    weights = attention(HEADS, 1e-3).weights(gate, image * 1e6, experts * 1e6)
    assert torch.isfinite(weights).all()


def test_a_linear_gate_has_a_weight_per_expert_and_mixes_at_full_width():
    gate, rng = LinearGate(width=4, experts=5), np.random.default_rng(1)
    state = init_gate(gate, rng)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == gate.shapes()
    assert gate.shapes() == {"gate.weight": (5, 4), "gate.bias": (5,)}
    _, images, experts = gate_and_features(3)  # two outputs are unused
    weights = gate.weights(state, images, experts)
    wanted = torch.softmax(images[:, ::2] @ state["gate.weight"][:3].T + state["gate.bias"][:3], dim=1)
    assert torch.allclose(weights, wanted, atol=1e-6)
    mixed = sum(weights[:, e, None] * (images @ experts[e].T) for e in range(3))
    assert torch.allclose(gate.scores(state, images, experts), mixed, atol=1e-6)


@pytest.mark.parametrize("gate", [attention(heads=2, temperature=0.3, width=4), LinearGate(width=4, experts=4)])
def test_gates_look_at_reduced_features(gate):
    state, (_, images, experts) = init_gate(gate, np.random.default_rng(2)), gate_and_features(4)
    other, rest = images.clone(), experts.clone()
    other[:, 1::2] += 1  # entries that the reduction leaves out
    rest[..., 1::2] += 1
    assert torch.equal(gate.weights(state, images, experts), gate.weights(state, other, rest))


def test_a_gate_is_a_part_of_a_state():
    state = init_gate(LinearGate(width=4, experts=2), np.random.default_rng(0))
    assert gate_tensors({**state, "context": torch.zeros(2), "gate_ready": torch.tensor(True)}) == state
    assert gate_tensors({"context": torch.zeros(2)}) == {}
