"""Contexts in a template: the prefix-shared encoder, the plain one and open_clip's own on the same tokens."""

import open_clip
import pytest
import torch
import torch.nn.functional as F

from promptfleet.clip.activations import activation_bytes
from promptfleet.clip.plain_encoder import encode_prompts_plainly
from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.clip.prompt_frame import Frame
from promptfleet.clip.prompt_layout import ClassTokens
from promptfleet.clip.text_tower import text_tower_of
from promptfleet.clip.tokens import embed_classes
from tests.fakes import tiny_classes, tiny_tower


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def framed(classes: ClassTokens, sources, before, vectors=3) -> ClassTokens:
    """Classes in a frame whose hard tokens, and every second place of a vector, have an embedding."""
    sources = torch.tensor(sources, dtype=torch.int64)
    base = drawn(len(sources), classes.start.shape[0], seed=5)
    base[(sources < vectors) & (torch.arange(len(sources)) % 2 == 0)] = 0
    return ClassTokens(classes.start, classes.suffix, classes.lengths, Frame(before, vectors, sources, base))


PLACES = {  # sources with 3 vectors, where 3 is a hard token, and how many tokens come before the class
    "hard and soft on both sides": ([0, 3, 1, 3, 3, 2], 3),
    "all after": ([3, 0, 1, 2], 0),
    "all before": ([0, 3, 1, 2, 3], 5),
    "a vector in three places": ([0, 1, 0, 3, 2, 0], 2),
    "hard alone": ([3, 3], 1),
}


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_equals_the_plain_encoder_in_features_and_gradients(places, by_class):
    tower = tiny_tower()
    classes = framed(tiny_classes(tower), *places)
    shape = (2, len(classes), 3, 16) if by_class else (2, 3, 16)
    ours, theirs = (drawn(*shape).requires_grad_() for _ in range(2))
    fast, plain = encode_prompts(tower, classes, ours), encode_prompts_plainly(tower, classes, theirs)
    assert torch.allclose(fast, plain, rtol=0, atol=1e-6)
    probe = drawn(*fast.shape, seed=1)
    (fast * probe).sum().backward()
    if not plain.requires_grad:  # the template has no place for a vector
        assert not ours.grad.any()
        return
    (plain * probe).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_equals_open_clip_on_the_same_embedded_tokens_in_features_and_gradients():
    """open_clip encodes whole texts; its embeddings of the words at the soft places are replaced by the vectors."""
    torch.manual_seed(3)
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3}
    model = open_clip.CLIP(24, vision, text).eval().requires_grad_(False)
    tower, names = text_tower_of(model), ["cat", "golden retriever", "7"]
    table = tower.weights["token_embedding.weight"]
    ids = {word: int(open_clip.tokenize(word)[0, 1]) for word in ("a", "photo", "kind", "x")}

    # {soft:2} a photo {class} {soft:1} kind
    hard = [None, None, "a", "photo", None, "kind"]
    base = torch.stack([torch.zeros(16) if word is None else table[ids[word]] for word in hard])
    frame = Frame(4, 3, torch.tensor([0, 1, 3, 3, 2, 3]), base)
    bare = embed_classes(tower, open_clip.tokenize(names))
    classes = ClassTokens(bare.start, bare.suffix, bare.lengths, frame)
    ours, theirs = (drawn(1, 3, 16).requires_grad_() for _ in range(2))

    whole = open_clip.tokenize([f"x x a photo {name} x kind" for name in names])

    def embedded(module, inputs, output):
        soft = iter([0, 1, 2] * len(names))
        rows = [[theirs[0, next(soft)] if i == ids["x"] else output[r, c] for c, i in enumerate(row)]
                for r, row in enumerate(inputs[0].tolist())]  # fmt: skip
        return torch.stack([torch.stack(row) for row in rows])

    hook = model.token_embedding.register_forward_hook(embedded)
    reference = F.normalize(model.encode_text(whole), dim=-1)
    hook.remove()
    found = encode_prompts(tower, classes, ours)[0]
    assert torch.allclose(found, reference, rtol=0, atol=1e-6)
    probe = drawn(*found.shape, seed=1)
    (found * probe).sum().backward()
    (reference * probe).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_a_context_of_another_size_is_refused_and_a_card_counts_the_frame():
    tower = tiny_tower()
    classes = framed(tiny_classes(tower), *PLACES["all before"])
    with pytest.raises(ValueError, match="a context of 2 vectors does not fit a template with places for 3"):
        encode_prompts(tower, classes, drawn(1, 2, 16))
    assert activation_bytes(tower, classes, (1, 3, 16)) > activation_bytes(tower, tiny_classes(tower), (1, 3, 16))
    assert classes.to("meta").frame.base.device.type == "meta"
