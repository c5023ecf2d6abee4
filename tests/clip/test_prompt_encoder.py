"""The prefix-shared encoder against the obvious one, and both against open_clip."""

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfleet.clip.plain_encoder import encode_prompts_plainly, encode_texts
from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.clip.prompt_layout import ClassTokens, Packing
from promptfleet.clip.text_tower import TextTower, text_tower_of
from promptfleet.clip.tokens import embed_classes
from tests.clip.small_models import VISION
from tests.fakes import tiny_classes, tiny_token_ids, tiny_tower


def random_contexts(prompts, tokens, width, seed=0):
    return torch.randn(prompts, tokens, width, generator=torch.Generator().manual_seed(seed)) * 0.1


def relative(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


@settings(max_examples=40, deadline=None)
@given(
    name_lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    tokens=st.integers(1, 32),
    prompts=st.integers(1, 3),
    position=st.sampled_from(["end", "middle", "front"]),
    class_specific=st.booleans(),
    layers=st.integers(1, 3),
    quick_gelu=st.booleans(),
    seed=st.integers(0, 999),
)
def test_equals_the_plain_encoder_in_features_and_gradients(
    name_lengths, tokens, prompts, position, class_specific, layers, quick_gelu, seed
):
    tower = tiny_tower(layers=layers, quick_gelu=quick_gelu, seed=seed)
    classes = tiny_classes(tower, name_lengths, seed=seed)
    shape = (prompts, len(name_lengths), tokens) if class_specific else (prompts, tokens)
    contexts = torch.randn(*shape, tower.width, generator=torch.Generator().manual_seed(seed)) * 0.1
    ours, theirs = contexts.clone().requires_grad_(), contexts.clone().requires_grad_()
    fast = encode_prompts(tower, classes, ours, position)
    plain = encode_prompts_plainly(tower, classes, theirs, position)
    assert fast.shape == (prompts, len(name_lengths), tower.dim)
    assert torch.allclose(fast, plain, rtol=0, atol=1e-6)
    assert torch.allclose(fast.norm(dim=-1), torch.ones(prompts, len(name_lengths)), atol=1e-6)
    probe = torch.randn(fast.shape, generator=torch.Generator().manual_seed(seed + 1))
    (fast * probe).sum().backward()
    (plain * probe).sum().backward()
    assert relative(ours.grad, theirs.grad) <= 1e-5


def test_padded_contexts_of_several_lengths_give_the_features_and_gradients_of_each_alone():
    tower = tiny_tower(layers=3)
    classes, lengths = tiny_classes(tower, [1, 4, 2]), torch.tensor([2, 7, 3])
    alone = [random_contexts(1, length, tower.width, seed=length).requires_grad_() for length in lengths.tolist()]
    padded = torch.full((3, 7, tower.width), 5.0)
    for row, context in zip(padded, alone, strict=True):
        row[: context.shape[1]] = context[0].detach()
    padded.requires_grad_()
    together = encode_prompts(tower, classes, padded, lengths=lengths)
    one_by_one = torch.cat([encode_prompts(tower, classes, context) for context in alone])
    assert torch.allclose(together, one_by_one, rtol=0, atol=1e-6)
    probe = torch.randn(together.shape, generator=torch.Generator().manual_seed(1))
    (together * probe).sum().backward()
    (one_by_one * probe).sum().backward()
    for gradient, context in zip(padded.grad, alone, strict=True):
        assert relative(gradient[: context.shape[1]], context.grad[0]) <= 1e-5
        assert not gradient[context.shape[1] :].any()


@pytest.mark.parametrize("class_specific", [False, True])
def test_the_place_of_the_class_name_matters(class_specific):
    tower = tiny_tower()
    shape = (1, 4, 6, tower.width) if class_specific else (1, 6, tower.width)
    contexts = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    end, middle, front = (
        encode_prompts(tower, tiny_classes(tower), contexts, position) for position in ("end", "middle", "front")
    )
    for one, other in ((end, middle), (middle, front), (end, front)):
        assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("prompts", [2, 3, 7])
def test_a_prompt_gives_the_same_bits_alone_and_beside_others(position, prompts):
    tower = tiny_tower(width=32, heads=4)
    classes = tiny_classes(tower, (1, 3, 2, 2, 1))
    contexts, probe = random_contexts(prompts, 5, tower.width), random_contexts(prompts, 5, tower.dim, seed=1)

    def run(chosen):
        leaf = contexts[chosen].clone().requires_grad_()
        features = encode_prompts(tower, classes, leaf, position)
        features.backward(probe[chosen])
        return features.detach(), leaf.grad

    together = run(slice(0, prompts))
    for prompt in range(prompts):
        alone = run(slice(prompt, prompt + 1))
        assert torch.equal(alone[0][0], together[0][prompt])
        assert torch.equal(alone[1][0], together[1][prompt])


def test_activation_changes_the_features():
    exact, quick = (tiny_tower(quick_gelu=quick_gelu) for quick_gelu in (False, True))
    contexts = random_contexts(1, 4, exact.width)
    features = [encode_prompts(tower, tiny_classes(tower), contexts) for tower in (exact, quick)]
    assert (features[0] - features[1]).abs().max() > 1e-4


@pytest.fixture(scope="module", params=[False, True], ids=["gelu", "quick_gelu"])
def open_model(request):
    torch.manual_seed(3)
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3}
    model = open_clip.CLIP(24, vision, text, quick_gelu=request.param).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():  # biases start at 0 and norms at 1, where mistakes do not show
        if not name.startswith("visual."):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("context", ["a", "a photo of a", "one two three four five six seven eight nine ten eleven"])
def test_equals_open_clip_on_the_whole_text(open_model, context):
    names = ["cat", "golden retriever", "very long and unusual class name", "7"]
    tower = text_tower_of(open_model)
    words = open_clip.tokenize(context)[0]
    words = words[1 : int(words.argmax())]
    classes = embed_classes(tower, open_clip.tokenize([f"{name}." for name in names]))
    ours = encode_prompts(tower, classes, tower.weights["token_embedding.weight"][words][None])[0]
    whole = open_clip.tokenize([f"{context} {name}." for name in names])
    theirs = open_model.encode_text(whole, normalize=True)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)
    assert torch.allclose(encode_texts(tower, whole), theirs, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu", "ViT-B-16", "ViT-L-14", "RN50", "RN50-quickgelu"])
@torch.no_grad()
def test_equals_open_clip_for_its_architectures(name):
    """Their image towers, which have most of the weights to draw, are small ones here."""
    model = open_clip.CLIP(**(open_clip.get_model_config(name) | {"vision_cfg": VISION})).eval()
    tower = text_tower_of(model, name)
    assert tower.quick_gelu is name.endswith("quickgelu")
    words = open_clip.tokenize("a photo of a")[0, 1:5]
    classes = embed_classes(tower, open_clip.tokenize(["cat.", "golden retriever.", "7."]))
    ours = encode_prompts(tower, classes, tower.weights["token_embedding.weight"][words][None])[0]
    whole = open_clip.tokenize([f"a photo of a {name}." for name in ("cat", "golden retriever", "7")])
    assert torch.allclose(ours, model.encode_text(whole, normalize=True), rtol=0, atol=2e-6)


def test_the_longest_context_that_fits_and_one_more():
    tower = tiny_tower(positions=20)
    classes = tiny_classes(tower, (1, 4))  # the longer name takes 4 tokens, full stop and EOT: 6
    longest = random_contexts(1, 13, tower.width)
    assert torch.allclose(
        encode_prompts(tower, classes, longest), encode_prompts_plainly(tower, classes, longest), rtol=0, atol=1e-6
    )
    with pytest.raises(ValueError, match=r"^a context of 14 tokens is too long: the tower leaves room for 13$"):
        encode_prompts(tower, classes, random_contexts(1, 14, tower.width))


def test_padding_cannot_reach_a_class():
    tower = tiny_tower()
    classes = tiny_classes(tower, (1, 5, 2))
    loud = classes.suffix.clone()
    for row, length in zip(loud, classes.lengths, strict=True):
        row[length:] = 100.0
    assert (loud == 100).any()
    contexts = random_contexts(2, 4, tower.width)
    quiet = encode_prompts(tower, classes, contexts)
    assert torch.equal(encode_prompts(tower, ClassTokens(classes.start, loud, classes.lengths), contexts), quiet)


def test_classes_and_prompts_cannot_reach_each_other():
    tower = tiny_tower()
    token_ids = tiny_token_ids((1, 5, 2))
    contexts = random_contexts(3, 4, tower.width)
    together = encode_prompts(tower, embed_classes(tower, token_ids), contexts)
    for label in range(3):
        for prompt in range(3):
            alone = encode_prompts(tower, embed_classes(tower, token_ids[label : label + 1]), contexts[prompt][None])
            assert torch.allclose(together[prompt, label], alone[0, 0], rtol=0, atol=1e-6)


def test_gradients_flow_to_the_context_alone():
    tower = tiny_tower()
    context = random_contexts(1, 3, tower.width).requires_grad_()
    encode_prompts(tower, tiny_classes(tower), context).sum().backward()
    assert context.grad.abs().sum() > 0
    assert not any(tensor.requires_grad or tensor.grad is not None for tensor in tower.weights.values())


def test_tower_on_another_device_has_the_same_settings():
    tower = tiny_tower(quick_gelu=True, heads=4, layers=1)
    moved = tower.to("meta")
    assert isinstance(moved, TextTower)
    assert (moved.layers, moved.heads, moved.quick_gelu) == (1, 4, True)
    assert {tensor.device.type for tensor in moved.weights.values()} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "position"), [((2, 3), "end"), ((2, 3), "middle"), ((1, 4, 3), "end")])
def test_gradients_that_are_looked_up_have_the_bits_of_those_that_are_added_up(monkeypatch, dtype, shape, position):
    tower = tiny_tower()
    classes = tiny_classes(tower)
    contexts = torch.randn(*shape, tower.width, generator=torch.Generator().manual_seed(0))

    def gradient() -> torch.Tensor:
        leaf = contexts.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            features = encode_prompts(tower, classes, leaf, position)
        (features * torch.arange(features.numel()).view_as(features)).sum().backward()
        return leaf.grad

    looked_up = gradient()
    monkeypatch.setattr(Packing, "pack", lambda self, grid: grid.index_select(1, self.real))
    monkeypatch.setattr(Packing, "unpack", lambda self, packed: packed.index_select(1, self.grid))
    assert torch.equal(looked_up, gradient())


def test_a_layout_is_made_once_for_contexts_of_one_size():
    classes = tiny_classes(tiny_tower())
    layout = classes.layout(3, "end", by_class=False)
    assert classes.layout(3, "end", by_class=False) is layout
    assert classes.layout(3, "middle", by_class=False) is not layout
