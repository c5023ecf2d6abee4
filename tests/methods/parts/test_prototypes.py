from math import log

import torch
import torch.nn.functional as F

from promptfleet.methods.parts.prototypes import Prototypes

CLASSES, DIM = 3, 8


def unit(count, seed):
    return F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)), dim=-1)


def scaled_cosines(features, text):
    return 5 * features @ text.T


def test_a_prototype_is_the_mean_of_the_images_taken_for_its_class():
    prototypes, batches = Prototypes(unit(CLASSES, 0), None, level=1.0), [unit(7, 1), unit(5, 2)]
    taken = [prototypes.logits_of(batch, scaled_cosines).argmax(dim=1) for batch in batches]
    for label in range(CLASSES):
        of_class = torch.cat([batch[labels == label] for batch, labels in zip(batches, taken, strict=True)])
        assert prototypes.counts[label] == len(of_class) > 0
        assert torch.allclose(prototypes.visual[label], of_class.mean(dim=0), atol=1e-6)


def test_only_images_of_little_entropy_are_taken():
    text, features = unit(CLASSES, 0), unit(40, 3)
    shares = scaled_cosines(features, text).softmax(dim=1)
    entropies = -(shares * shares.log()).sum(dim=1)
    level = float(entropies.median()) / log(CLASSES)
    prototypes = Prototypes(text, None, level)
    prototypes.logits_of(features, scaled_cosines)
    assert prototypes.counts.sum() == (entropies < level * log(CLASSES)).sum()


def test_at_level_0_no_image_is_taken_and_text_alone_predicts():
    text = unit(CLASSES, 0)
    prototypes = Prototypes(text, None, level=0.0)
    for seed in (1, 2, 3):
        features = unit(9, seed)
        assert torch.equal(prototypes.logits_of(features, scaled_cosines), scaled_cosines(features, text))
    assert not prototypes.counts.any()


def test_prototypes_wait_until_each_class_in_question_has_one():
    text, features = unit(CLASSES, 0), unit(30, 1)
    first = features[scaled_cosines(features, text).argmax(dim=1) == 0]
    prototypes = Prototypes(text, None, level=1.0)
    prototypes.logits_of(first, scaled_cosines)
    assert torch.equal(prototypes.logits_of(features, scaled_cosines), scaled_cosines(features, text))
    changed = prototypes.logits_of(features, scaled_cosines)
    assert torch.allclose(changed, scaled_cosines(features, text + prototypes_before(text, first, features)), atol=1e-5)


def prototypes_before(text, *batches):
    features = torch.cat(batches)
    labels = scaled_cosines(features, text).argmax(dim=1)
    return torch.stack([features[labels == label].mean(dim=0) for label in range(CLASSES)])


def test_classes_that_are_not_in_question_neither_wait_nor_get_images():
    text, features = unit(CLASSES, 0), unit(30, 1)
    prototypes = Prototypes(text, torch.tensor([True, False, True]), level=1.0)
    prototypes.logits_of(features, scaled_cosines)
    assert prototypes.counts[1] == 0
    assert prototypes.counts.sum() == 30
    assert not torch.equal(prototypes.logits_of(features, scaled_cosines), scaled_cosines(features, text))
