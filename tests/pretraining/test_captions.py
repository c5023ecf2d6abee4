"""Captions: every class has some, the wording varies, and a caption is matched to the images it is true of."""

import numpy as np
import pytest
import torch

from promptfleet.pretraining.bank import DIGIT_NAMES, GLYPHS
from promptfleet.pretraining.captions import STYLE_WORDS, Caption, caption_batch, matches, vocabulary
from promptfleet.pretraining.glyphs import STYLES
from promptfleet.pretraining.model import Vocabulary


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    return [caption_batch(rng) for _ in range(60)]


@pytest.mark.parametrize("plain", [False, True])
def test_every_class_has_a_caption_without_a_style(plain):
    captions = caption_batch(np.random.default_rng(1), plain=plain)
    assert {index for caption in captions if caption.style is None for index in caption.classes} == set(
        range(len(GLYPHS))
    )


def test_captions_are_a_function_of_the_generator():
    assert caption_batch(np.random.default_rng(2)) == caption_batch(np.random.default_rng(2))
    assert caption_batch(np.random.default_rng(2)) != caption_batch(np.random.default_rng(3))


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
    assert set(range(1, 16)) <= position


def test_blanks_count_the_placeholders_before_the_class_word(batches):
    blanked = [caption for batch in batches for caption in batch if caption.blanks]
    assert blanked
    assert all(caption.text.split()[: caption.blanks] == ["x"] * caption.blanks for caption in blanked)
    assert all(len(caption.text.split()) == caption.blanks + 1 for caption in blanked)


def test_plain_captions_have_no_filler():
    assert max(len(caption.text.split()) for caption in caption_batch(np.random.default_rng(4), plain=True)) <= 2


def test_every_caption_is_inside_the_vocabulary(batches):
    tokenize = Vocabulary(vocabulary())
    for batch in batches:
        tokenize([caption.text for caption in batch])


def test_a_word_outside_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="outside the vocabulary"):
        Vocabulary(vocabulary())(["a handwritten zebra."])


def test_every_style_has_words():
    assert set(STYLE_WORDS) == set(STYLES)


def test_a_caption_matches_its_classes_in_its_style():
    q, big_q, seven = GLYPHS.index("q"), GLYPHS.index("Q"), DIGIT_NAMES.index("seven")
    captions = [Caption("letter q", (q, big_q)), Caption("a bold seven.", (seven,), "bold"), Caption("7", (seven,))]
    styles = torch.zeros(4, len(STYLES), dtype=torch.bool)
    styles[3, STYLES.index("bold")] = True
    table = matches(captions, torch.tensor([q, big_q, seven, seven]), styles)
    assert table.tolist() == [[True, False, False], [True, False, False], [False, False, True], [False, True, True]]
