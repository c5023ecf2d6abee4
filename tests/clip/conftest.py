"""A tiny architecture that open_clip knows by name, and files with its weights."""

import json
from types import SimpleNamespace

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from tests.clip.small_models import MODEL, TEXT, VISION, openai_state, small_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """``folder`` with files of weights, and the ``model`` they are of; open_clip knows it as ``MODEL``."""
    folder = tmp_path_factory.mktemp("weights")
    for name, quick_gelu in ((MODEL, {}), (f"{MODEL}-quickgelu", {"quick_gelu": True})):
        config = folder / f"{name}.json"
        config.write_text(json.dumps({"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, **quick_gelu}))
        open_clip.add_model_config(config)
    model = small_model()
    torch.save(model.state_dict(), folder / "weights.pt")
    save_file(model.state_dict(), folder / "weights.safetensors")
    save_file(model.state_dict() | {"logit_scale": torch.tensor(2.0)}, folder / "changed.safetensors")
    torch.save(openai_state(model), folder / "openai.pt")
    return SimpleNamespace(folder=folder, model=model)
