"""Accuracy of the backbone, zero-shot and by linear probe, on the handwritten digits that scikit-learn ships.

These digits are only measured on, never trained on.
"""

from __future__ import annotations

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from promptfleet.pretraining.bank import DIGIT_NAMES
from promptfleet.pretraining.model import read_config

TEMPLATE = "a handwritten digit {}."


def handwritten_digits() -> tuple[Tensor, np.ndarray]:
    """Return the 1,797 digits as the backbone's input ``[images, 3, 32, 32]``, and labels, in scikit-learn's order."""
    digits = load_digits()
    transform = image_transform_v2(PreprocessCfg(**read_config()["preprocess_cfg"]), is_train=False)
    pictures = [Image.fromarray(np.round(image * 255 / 16).astype(np.uint8)) for image in digits.images]
    return torch.stack([transform(picture) for picture in pictures]), digits.target


@torch.no_grad()
def image_features(model: open_clip.CLIP, images: Tensor) -> Tensor:
    """Return unit features ``[images, dim]``."""
    return torch.cat([model.encode_image(chunk, normalize=True) for chunk in images.split(512)])


@torch.no_grad()
def zero_shot_accuracy(model: open_clip.CLIP, features: Tensor, labels: np.ndarray, template: str = TEMPLATE) -> float:
    """Return the share of features ``[images, dim]`` whose nearest digit prompt is right; one prompt per class."""
    tokens = open_clip.SimpleTokenizer()([template.format(name) for name in DIGIT_NAMES])
    text = model.encode_text(tokens, normalize=True)
    return float(((features @ text.T).argmax(1).numpy() == labels).mean())


def linear_probe_accuracy(features: Tensor, labels: np.ndarray, seed: int = 0) -> float:
    """Return the test accuracy of a logistic regression fitted on one stratified half of the features."""
    train, test, train_labels, test_labels = train_test_split(
        features.numpy(), labels, test_size=0.5, random_state=seed, stratify=labels
    )
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return float(probe.fit(train, train_labels).score(test, test_labels))
