"""CLIPs small enough to be built in milliseconds."""

import numpy as np
import open_clip
import torch
from torch import Tensor

from promptfleet.clip.plain_encoder import encode_texts
from promptfleet.data.dataset import Dataset
from promptfleet.features.image_encoder import Encoder

VISION = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
TEXTS = ["a cat.", "a photo of a golden retriever.", "7"]
MODEL = "Tiny-Test-ViT"


def small_model(model_class=open_clip.CLIP, quick_gelu=False, **text):
    torch.manual_seed(0)
    return model_class(24, VISION, {**TEXT, **text}, quick_gelu=quick_gelu).eval().requires_grad_(False)


def assert_same_text_features(tower, model):
    token_ids = open_clip.tokenize(TEXTS)
    theirs = model.encode_text(token_ids, normalize=True)
    assert torch.allclose(encode_texts(tower, token_ids), theirs, rtol=0, atol=1e-6)


def openai_state(model):
    """The model's weights as OpenAI's files have them: half precision, and three numbers beside them."""
    state = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in model.state_dict().items()}
    numbers = {"input_resolution": 16, "context_length": 77, "vocab_size": 49408}
    return state | {key: torch.tensor(value) for key, value in numbers.items()}


def image_features(backbone, images) -> Tensor:
    """Features ``[images, dim]`` as a federation gets them."""
    dataset = Dataset(
        name="made-up",
        class_names=("a", "b"),
        labels=np.zeros(len(images), np.int64),
        read_image=images.__getitem__,
        templates=("{}",),
        fingerprint="made-up",
    )
    return torch.from_numpy(
        Encoder(backbone, dataset, ["features"], 0, torch.device("cpu"))(range(len(images)))["features"]
    )
