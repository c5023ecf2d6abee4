import errno
import os
import re
from argparse import Namespace
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from promptfleet.clip import checkpoint
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


def save_old(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights.safetensors", "weights"])
@pytest.mark.parametrize("save", [save_file, torch.save, save_old])
def test_formats_give_the_same_weights_whatever_the_file_is_called(tmp_path, name, save):
    model = small_model()
    save(model.state_dict(), tmp_path / name)
    assert_loads(tmp_path / name, model)


def test_openais_format_is_seen_by_its_three_numbers(tmp_path):
    model, path = small_model(), tmp_path / "weights.pt"
    torch.save(openai_state(model), path)
    assert_loads(path, model, is_openai=True)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.clip."])
@pytest.mark.parametrize("inside", [(), ("state_dict",), ("model",), ("model_state_dict",), ("state_dict", "model")])
def test_a_training_checkpoint_of_a_wrapped_model(tmp_path, prefix, inside):
    model, path = small_model(), tmp_path / "epoch_3.pt"
    content = {f"{prefix}{key}": tensor for key, tensor in model.state_dict().items()}
    for key in inside:
        content = {"epoch": 3, "name": "run", "optimizer": {"state": {0: torch.ones(1)}}, key: content}
    torch.save(content, path)
    assert_loads(path, model)


def test_a_wrapper_s_own_tensors_are_left_out_and_two_models_refused(tmp_path):
    model, path = small_model(), tmp_path / "lightning.ckpt"
    state = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    torch.save({"state_dict": {**state, "loss.weight": torch.ones(2)}, "epoch": 3}, path)
    assert_loads(path, model)
    torch.save({**state, **{f"ema.{key}": tensor for key, tensor in model.state_dict().items()}}, path)
    assert refused(path).startswith(f"not the weights of {MODEL}: keys")


def test_openais_three_numbers_are_seen_behind_a_prefix(tmp_path):
    model, path = small_model(), tmp_path / "weights.pt"
    torch.save({f"module.{key}": value for key, value in openai_state(model).items()}, path)
    assert_loads(path, model, is_openai=True)


def test_parameters_are_weights(tmp_path):
    model, path = small_model(), tmp_path / "weights.pt"
    torch.save({key: torch.nn.Parameter(value) for key, value in model.state_dict().items()}, path)
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
    assert refused(path).startswith("damaged, or not a file of weights (File is not a zip file")
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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("save", [torch.save, save_old])
@pytest.mark.parametrize(
    ("tensor", "complaint"),
    [
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "quantized"),
        (lambda: torch.eye(2).to_sparse(), "sparse"),
        (lambda: torch.eye(2).to_sparse_csr(), "sparse"),
        (lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]), "nested|file of weights"),
        (lambda: torch.ones(2).to(torch.float8_e4m3fn), "float8|UntypedStorage"),
        (lambda: torch.ones(2, dtype=torch.complex64), "omplex"),
        (lambda: torch.ones(2, device="meta"), "meta"),
        (lambda: torch.ones(1).expand(10**9), "1000000000"),
    ],
    ids=["quantized", "sparse", "csr", "nested", "float8", "complex", "meta", "strides of 0"],
)
def test_other_tensors_than_plain_numbers_are_refused_in_words(tmp_path, save, tensor, complaint):
    save({**small_model().state_dict(), "visual.proj": tensor()}, tmp_path / "weights.pt")
    assert re.search(complaint, refused(tmp_path / "weights.pt"))


def test_float8_in_safetensors_is_refused_in_words(tmp_path):
    save_file({"visual.proj": torch.ones(2).to(torch.float8_e5m2)}, tmp_path / "weights.safetensors")
    assert refused(tmp_path / "weights.safetensors") == (
        "'visual.proj' is float8_e5m2, should be plain float32, float16 or bfloat16"
    )


@pytest.mark.parametrize("save", [save_file, torch.save, save_old])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_one_line(tmp_path, save, share):
    path = tmp_path / "weights.pt"
    save(small_model().state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert refused(path)


@pytest.mark.parametrize(
    "text", [b"hello world", b"version https://git-lfs.github.com/spec/v1", b"<html>", b"\x80", b"PK"]
)
def test_a_file_of_something_else_is_one_line(tmp_path, text):
    (tmp_path / "weights.pt").write_bytes(text)
    assert "not a file of weights" in refused(tmp_path / "weights.pt")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def deny(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(checkpoint, "read_file", deny)
    (tmp_path / "weights.pt").touch()
    assert refused(tmp_path / "weights.pt") == "cannot be read (Permission denied)"


def test_no_such_file():
    with pytest.raises(BackboneError, match=r"^backbone\.checkpoint=nowhere\.pt: there is no such file$"):
        read_weights("nowhere.pt")
