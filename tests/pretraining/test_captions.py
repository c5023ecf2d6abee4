"""Captions: every class has some, the wording varies, and a caption is matched to the images it is true of."""

import numpy as np
import pytest
import torch

from promptfleet.pretraining.bank import DIGIT_NAMES, GLYPHS
from promptfleet.pretraining.captions import CONTRASTS, FILLER, STYLE_WORDS, Caption, caption_batch, matches, vocabulary
from promptfleet.pretraining.glyphs import STYLES
from promptfleet.pretraining.model import Vocabulary


def draw(seed, **options):
    """Images of all classes, each true of about a third of the styles, and captions for them."""
    rng = np.random.default_rng(seed)
    label, styles = np.arange(400) % len(GLYPHS), rng.random((400, len(STYLES))) < 0.3
    return label, styles, caption_batch(rng, label, styles, **options)


@pytest.fixture(scope="module")
def batches():
    return [draw(seed)[2] for seed in range(100, 160)]


@pytest.mark.parametrize("plain", [False, True])
def test_every_class_has_a_caption_without_a_style(plain):
    captions = draw(1, plain=plain)[2]
    assert {index for caption in captions if not caption.styles for index in caption.classes} == set(range(len(GLYPHS)))


def test_captions_are_a_function_of_the_generator():
    assert draw(2)[2] == draw(2)[2]
    assert draw(2)[2] != draw(3)[2]


def test_wording_varies(batches):
    sevens = {caption.text for batch in batches for caption in batch if caption.classes == (7,)}
    assert len(sevens) > 150
    assert any("seven." in text for text in sevens)
    assert any("7" in text for text in sevens)
    assert any("handwritten" in text for text in sevens)


def test_class_words_stand_at_many_positions(batches):
    position = {
        caption.text.rstrip(".").split().index("three")
        for batch in batches
        for caption in batch
        if caption.classes == (3,) and "three" in caption.text.rstrip(".").split()
    }
    assert set(range(8)) <= position
    assert max(position) > 15


def test_styles_are_named_in_front_of_most_classes_and_up_to_three_at_once(batches):
    styled = [caption for batch in batches for caption in batch if caption.styles]
    assert {len(caption.styles) for caption in styled} == {1, 2, 3}
    last = [caption.text.rstrip(".").split()[-1] for caption in styled if caption.classes == (3,)]
    assert sum(word in ("three", "3") for word in last) > 0.75 * len(last)


def test_every_digit_has_pairs_of_captions_that_differ_in_one_style():
    label, styles, captions = draw(5)
    for digit in range(10):
        first, *others = [caption for caption in captions if caption.classes == (digit,) and caption.styles]
        pairs = list(zip([first, *others][::2], [first, *others][1::2], strict=True))
        assert len(pairs) == 3
        for one, other in pairs:
            assert sum(a != b for a, b in zip(one.styles, other.styles, strict=True)) == 1
            assert one.text != other.text
            assert [table_row(one, image) for image in styles[label == digit]].count(True) > 0


def table_row(caption, image):
    """Return True if all styles of the caption are true of the image."""
    return all(image[STYLES.index(style)] for style in caption.styles)


def test_a_counterpart_names_a_contrasting_style_where_there_is_one():
    label = np.full(60, 3)
    styles = np.zeros((60, len(STYLES)), dtype=bool)
    styles[:, [STYLES.index("bold"), STYLES.index("red")]] = True
    captions = caption_batch(np.random.default_rng(0), label, styles)
    named = [caption.styles for caption in captions if caption.classes == (3,) and caption.styles]
    for one, other in zip(named[::2], named[1::2], strict=True):
        ((true, false),) = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
        assert true in ("bold", "red")
        assert any({true, false} <= set(group) for group in CONTRASTS)


def test_plain_captions_have_no_filler():
    assert max(len(caption.text.split()) for caption in draw(4, plain=True)[2]) <= 2


def test_every_caption_is_inside_the_vocabulary(batches):
    tokenize = Vocabulary(vocabulary())
    for batch in batches:
        tokenize([caption.text for caption in batch])


def test_a_word_outside_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="outside the vocabulary"):
        Vocabulary(vocabulary())(["a handwritten zebra."])


def test_every_style_has_words_and_contrasts():
    assert set(STYLE_WORDS) == set(STYLES)
    assert {style for group in CONTRASTS for style in group} == set(STYLES)


def test_no_word_means_two_styles_or_is_filler():
    words = [word for group in STYLE_WORDS.values() for word in set(group)]
    assert len(words) == len(set(words))
    assert not set(words) & set(FILLER)


def test_a_caption_matches_its_classes_in_all_its_styles():
    q, big_q, seven = GLYPHS.index("q"), GLYPHS.index("Q"), DIGIT_NAMES.index("seven")
    captions = [
        Caption("letter q", (q, big_q)),
        Caption("a bold seven.", (seven,), ("bold",)),
        Caption("a bold red seven.", (seven,), ("bold", "red")),
        Caption("7", (seven,)),
    ]
    styles = torch.zeros(5, len(STYLES), dtype=torch.bool)
    styles[3:, STYLES.index("bold")] = True
    styles[4, STYLES.index("red")] = True
    table = matches(captions, torch.tensor([q, big_q, seven, seven, seven]), styles)
    assert table.long().tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 1], [0, 1, 1, 1]]
