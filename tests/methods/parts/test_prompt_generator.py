import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from promptfleet.methods.parts.prompt_generator import HEADS, generate_context, generator_shapes, init_generator

TOKENS, WIDTH, DIM, CLASSES = 3, 16, 24, 5


def generator_and_text(seed=0):
    """Every tensor random, norms and biases too, so that none can be forgotten or swapped unnoticed."""
    rng = np.random.default_rng(seed)
    generator = {
        name: torch.from_numpy(rng.normal(0.5, 0.3, shape).astype(np.float32))
        for name, shape in generator_shapes(TOKENS, WIDTH, DIM).items()
    }
    return generator, F.normalize(torch.from_numpy(rng.normal(size=(CLASSES, DIM)).astype(np.float32)), dim=-1)


def textbook_context(generator, class_text):
    """The same network put together from torch's own layers."""
    attention = nn.MultiheadAttention(WIDTH, HEADS, kdim=DIM, vdim=DIM)
    query_norm, class_norm, feed_forward_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(DIM), nn.LayerNorm(WIDTH)
    expand, contract = nn.Linear(WIDTH, 8 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
    own = {
        "queries": generator["queries"],
        **{
            f"attention.{short}_proj_weight": generator[f"{name}.weight"]
            for short, name in [("q", "query"), ("k", "key"), ("v", "value")]
        },
        "attention.in_proj_bias": torch.cat([generator[f"{name}.bias"] for name in ("query", "key", "value")]),
    }

    def call(module, prefix, *inputs):
        return torch.func.functional_call(
            module, {kind: generator[f"{prefix}.{kind}"] for kind in ("weight", "bias")}, inputs
        )

    attention_state = {name.removeprefix("attention."): value for name, value in own.items() if "attention" in name}
    attention_state |= {f"out_proj.{kind}": generator[f"output.{kind}"] for kind in ("weight", "bias")}
    classes = call(class_norm, "class_norm", class_text)
    queries = call(query_norm, "query_norm", generator["queries"])
    hidden, _ = torch.func.functional_call(attention, attention_state, (queries, classes, classes))
    inner, gate = call(expand, "expand", call(feed_forward_norm, "feed_forward_norm", hidden)).chunk(2, dim=-1)
    return hidden + call(contract, "contract", inner * F.gelu(gate))


def test_equals_torchs_layers_with_gradients():
    generator, text = generator_and_text()
    results = []
    for formula in (generate_context, textbook_context):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in generator.items()}
        context = formula(leaves, text)
        (context * torch.linspace(-1, 1, TOKENS * WIDTH).view(TOKENS, WIDTH)).sum().backward()
        results.append({"context": context.detach(), **{name: leaf.grad for name, leaf in leaves.items()}})
    ours, theirs = results
    for name, wanted in theirs.items():
        assert torch.allclose(ours[name], wanted, rtol=1e-4, atol=1e-5), name
        if name != "key.bias":  # a number added to all scores of a query
            assert wanted.abs().max() > 1e-4, name


def test_the_order_of_classes_does_not_matter_and_the_set_does():
    generator, text = generator_and_text()
    context = generate_context(generator, text)
    assert torch.allclose(generate_context(generator, text[[3, 0, 4, 2, 1]]), context, atol=1e-5)
    for some in ([0, 1, 2, 3], [4], [0, 2]):
        other = generate_context(generator, text[some])
        assert other.shape == context.shape == (TOKENS, WIDTH)
        assert (other - context).abs().max() > 1e-3


@pytest.mark.parametrize(("tokens", "width", "dim"), [(4, 512, 512), (3, 16, 24)])
def test_number_of_parameters(tokens, width, dim):
    shapes = generator_shapes(tokens, width, dim)
    attention = 2 * (width * width + width) + 2 * (width * dim + width)
    feed_forward = 2 * 4 * width * (width + 1) + (4 * width + 1) * width
    norms = 4 * width + 2 * dim
    wanted = tokens * width + attention + feed_forward + norms
    assert sum(np.prod(shape) for shape in shapes.values()) == wanted


def test_starts_as_documented():
    generator = init_generator(8, 128, 128, np.random.default_rng(0))
    assert {name: tuple(tensor.shape) for name, tensor in generator.items()} == generator_shapes(8, 128, 128)
    assert {tensor.dtype for tensor in generator.values()} == {torch.float32}
    assert float(generator["queries"].std()) == pytest.approx(0.02, rel=0.1)
    assert generator["contract.weight"].abs().max() <= 512**-0.5
    assert float(generator["expand.weight"].std()) == pytest.approx(128**-0.5 / 3**0.5, rel=0.02)
    assert all(bool((generator[f"{name}_norm.weight"] == 1).all()) for name in ("query", "class", "feed_forward"))
    assert not any(tensor.any() for name, tensor in generator.items() if name.endswith(".bias"))
