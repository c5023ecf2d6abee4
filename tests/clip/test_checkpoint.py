import os
import re
from argparse import Namespace
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from promptfleet.clip.checkpoint import load_weights, read_weights
from promptfleet.errors import BackboneError
from tests.clip.small_models import MODEL, openai_state, small_model


def blank(model_class=open_clip.CLIP):
    model = small_model(model_class)
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model


def assert_loads(path, model, *, is_openai=False):
    weights = read_weights(path)
    assert weights.is_openai is is_openai
    loaded = blank(type(model))
    load_weights(loaded, weights, MODEL)
    for key, tensor in model.state_dict().items():
        wanted = tensor.half().float() if is_openai else tensor
        assert torch.equal(loaded.state_dict()[key], wanted), key


@pytest.mark.parametrize("suffix", ["pt", "bin", "pth", "safetensors"])
def test_formats_give_the_same_weights(tmp_path, suffix):
    model, path = small_model(), tmp_path / f"weights.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(model.state_dict(), path)
    assert_loads(path, model)


def test_openais_format_is_seen_by_its_three_numbers(tmp_path):
    model, path = small_model(), tmp_path / "weights.pt"
    torch.save(openai_state(model), path)
    assert_loads(path, model, is_openai=True)


def test_a_training_checkpoint_of_a_wrapped_model(tmp_path):
    model, path = small_model(), tmp_path / "epoch_3.pt"
    state = {f"module.{key}": tensor for key, tensor in model.state_dict().items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": state, "optimizer": {"state": {}}}, path)
    assert_loads(path, model)


@pytest.mark.parametrize(
    ("saved", "wanted"), [(open_clip.CLIP, open_clip.CustomTextCLIP), (open_clip.CustomTextCLIP, open_clip.CLIP)]
)
def test_the_text_tower_may_stand_at_the_top_or_under_text(tmp_path, saved, wanted):
    path, model = tmp_path / "weights.pt", blank(wanted)
    torch.save(small_model(saved).state_dict(), path)
    load_weights(model, read_weights(path), MODEL)
    expected = small_model(wanted).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


def test_a_logit_scale_of_one_element_fits(tmp_path):
    model = small_model()
    torch.save(model.state_dict() | {"logit_scale": model.logit_scale.reshape(1)}, tmp_path / "weights.pt")
    assert_loads(tmp_path / "weights.pt", model)


# What is refused


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def refused(path) -> str:
    with pytest.raises(BackboneError) as caught:
        load_weights(small_model(), read_weights(path), MODEL)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"visual.proj": None},
            f"not the weights of {MODEL}: keys 1 missing, first 'visual.proj'",
        ),
        (
            {"visual.more": torch.ones(2), "even.more": torch.ones(2)},
            f"not the weights of {MODEL}: keys 2 too many, first 'visual.more'",
        ),
        (
            {"ln_final.bias": None, "text_model.final_layer_norm.bias": torch.ones(16)},
            f"not the weights of {MODEL}: keys 1 missing, first 'ln_final.bias'; 1 too many, first "
            "'text_model.final_layer_norm.bias'. These are names of Hugging Face's transformers: take the same "
            "model's open_clip file",
        ),
        ({"visual.proj": torch.ones(16, 25)}, f"'visual.proj' is [16, 25], {MODEL} has [16, 24]"),
        ({"visual.proj": torch.full((16, 24), torch.nan)}, "'visual.proj' has NaN or Inf; the file is damaged"),
        ({"logit_scale": torch.tensor(torch.inf)}, "'logit_scale' has NaN or Inf; the file is damaged"),
        ({"visual.proj": [1.0]}, "'visual.proj' is a list, should be a tensor"),
    ],
    ids=["missing", "too many", "transformers", "shape", "nan", "inf", "no tensor"],
)
def test_what_does_not_fit_is_named_with_file_and_key(tmp_path, change, complaint):
    state = {key: value for key, value in {**small_model().state_dict(), **change}.items() if value is not None}
    torch.save(state, tmp_path / "weights.pt")
    assert refused(tmp_path / "weights.pt") == complaint


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"visual.proj": Evil(tmp_path / "pwned")}, tmp_path / "weights.pt")
    assert re.fullmatch(
        r"refers to [\w.]+: only tensors are loaded, never code; save the state dict alone",
        refused(tmp_path / "weights.pt"),
    )
    assert os.listdir(tmp_path) == ["weights.pt"]


def test_other_files(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"no weights at all")
    assert refused(path) == "not a file of weights"
    path.write_bytes(b"")
    assert refused(path) == "not a file of weights"
    torch.save(small_model().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert refused(path).startswith("damaged, or not a file of weights (PytorchStreamReader failed")
    torch.save([torch.ones(1)], path)
    assert refused(path) == "holds a list, should be a state dict: tensors by name"
    torch.save({"state_dict": small_model().state_dict(), "args": Namespace(lr=0.1)}, path)
    assert refused(path) == (
        "refers to argparse.Namespace: only tensors are loaded, never code; save the state dict alone"
    )
    safe = tmp_path / "weights.safetensors"
    save_file(small_model().state_dict(), safe)
    safe.write_bytes(safe.read_bytes()[:-1000])
    assert refused(safe).startswith("damaged, or not a file of weights (Error while deserializing header: ")


def test_no_such_file():
    with pytest.raises(BackboneError, match=r"^backbone\.checkpoint=nowhere\.pt: there is no such file$"):
        read_weights("nowhere.pt")
