"""How much contexts move text features: the measure, and what the shipped weights reach."""

import re

import pytest
import torch

from promptfleet.pretraining import context_shift, model


@pytest.fixture(scope="module")
def clip():
    return model.load_model()


def test_contexts_that_change_nothing_shift_nothing():
    features = torch.nn.functional.normalize(torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert context_shift.relative_shift(features.expand(5, -1, -1)) == pytest.approx(0, abs=1e-6)


def test_the_shift_is_relative_to_the_distance_between_classes():
    """Two classes 2 apart, each 0.5 to either side of its mean."""
    features = torch.tensor([[[1.0, 0.5], [-1.0, 0.5]], [[1.0, -0.5], [-1.0, -0.5]]])
    assert context_shift.relative_shift(features) == pytest.approx(0.25)


@pytest.mark.parametrize(("scale", "least"), [(0.02, 0.06), (0.1, 0.10)])
def test_random_contexts_move_the_text_features(clip, scale, least):
    assert context_shift.random_context_shift(clip, scale) >= least


def test_style_words_move_the_text_features_more_than_synonyms(clip):
    opposites, synonyms = (
        context_shift.style_word_shift(clip, words) for words in (("bold", "thin"), ("slanted", "italic"))
    )
    assert opposites > 3 * synonyms


@pytest.mark.slow
def test_shifts_are_those_in_the_model_card(clip):
    card = model.WEIGHTS.with_name("MODEL_CARD.md").read_text()
    for scale in context_shift.SCALES:
        row = re.search(rf"\| random context, scale {scale:g} \| ([\d.]+) \|", card)
        assert context_shift.random_context_shift(clip, scale) == pytest.approx(float(row[1]), abs=0.002)
    row = re.search(r"\| a style word \| ([\d.]+) \|", card)
    assert context_shift.style_word_shift(clip) == pytest.approx(float(row[1]), abs=0.002)
