"""Stored text features are used only if they are what was written; else they are computed again."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from promptfleet.clip.plain_encoder import encode_texts
from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.config import StorageConfig
from promptfleet.errors import ConfigError
from promptfleet.features import text_features as module
from promptfleet.features.image_encoder import load_inputs
from promptfleet.features.text_features import embedded_texts, text_features
from promptfleet.methods.parts.states import state_sha256
from tests.tiny_federation import equal


@pytest.fixture(scope="module")
def inputs(small_config):
    return load_inputs(small_config())[::-1]


@pytest.fixture
def stored(inputs, tmp_path):
    """Writes the features, and returns them with their file."""
    wanted = text_features(*inputs, StorageConfig(), tmp_path)
    (path,) = tmp_path.iterdir()
    return wanted, path


def again(inputs, path):
    return text_features(*inputs, StorageConfig(), path.parent)


def test_they_are_computed_once(inputs, stored, monkeypatch):
    wanted, path = stored
    monkeypatch.setattr(module, "_compute", None)
    assert equal(again(inputs, path), wanted)


def rewrite(path, tensors=None, **metadata):
    with safe_open(path, "pt") as file:
        metadata = {**file.metadata(), **metadata}
    save_file(load_file(path) if tensors is None else tensors, path, metadata)


def crafted(path, change):
    """Other tensors, whose checksum is right."""
    tensors = load_file(path)
    change(tensors)
    rewrite(path, tensors, sha256=state_sha256(tensors, {}))


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_bit, "its content does not match its checksum"),
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), ""),
        (lambda path: save_file(load_file(path), path), "made for other inputs"),  # as older versions wrote them
        (lambda path: rewrite(path, key=json.dumps([2, "another"])), "made for other inputs"),
        (
            lambda path: rewrite(path, {name: tensor.flip(0) for name, tensor in load_file(path).items()}),
            "its content does not match its checksum",
        ),
        (lambda path: crafted(path, lambda tensors: tensors.pop("start")), "other names|start"),
        (lambda path: crafted(path, lambda tensors: tensors.update(more=torch.ones(1))), "other names"),
        (lambda path: crafted(path, lambda tensors: tensors.update(suffix=tensors["suffix"][1:])), "other names"),
        (
            lambda path: crafted(path, lambda tensors: tensors.update(zero_shot_text=tensors["zero_shot_text"].half())),
            "other names",
        ),
        (lambda path: crafted(path, lambda tensors: tensors.update(lengths=tensors["lengths"] + 10**6)), "lengths"),
        (lambda path: crafted(path, lambda tensors: tensors["start"].fill_(torch.nan)), "a NaN or Inf"),
    ],
)
def test_damaged_ones_are_computed_and_written_again(inputs, stored, damage, reason, caplog):
    wanted, path = stored
    damage(path)
    assert equal(again(inputs, path), wanted)
    (message,) = caplog.messages
    assert message.startswith(f"{path}: damaged (")
    assert message.endswith("; computing it again")
    assert reason.split("|")[0] in message or reason.split("|")[-1] in message
    caplog.clear()
    assert equal(again(inputs, path), wanted)
    assert caplog.messages == []


def test_damaged_ones_at_an_address_are_replaced_there(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage = StorageConfig(path=(tmp_path / "home").as_uri())
    folder = storage.folder / "features"
    wanted = text_features(*inputs, storage, folder)
    (path,) = folder.iterdir()
    there = tmp_path / "home" / "features" / path.name
    there.parent.mkdir(parents=True)
    there.write_bytes(path.read_bytes())
    flip_a_bit(there)
    path.unlink()
    assert equal(text_features(*inputs, storage, folder), wanted)
    assert equal(load_file(there), wanted)


TEXTS = ["a photo of a three.", "one", "the digit seven, drawn by hand."]


def test_further_texts_are_embedded_once_and_encode_as_whole_texts_do(inputs, tmp_path, monkeypatch):
    backbone, _ = inputs
    tokens = embedded_texts(backbone, TEXTS, StorageConfig(), tmp_path)
    no_context = torch.empty(1, 0, backbone.tower.width)
    features = encode_prompts(backbone.tower, tokens, no_context)[0]
    assert torch.allclose(features, encode_texts(backbone.tower, backbone.tokenize(TEXTS)), atol=1e-5)
    monkeypatch.setattr(module, "tokenize_texts", None)
    again = embedded_texts(backbone, TEXTS, StorageConfig(), tmp_path)
    assert torch.equal(again.suffix, tokens.suffix)
    with pytest.raises(TypeError):
        embedded_texts(backbone, TEXTS[::-1], StorageConfig(), tmp_path)


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("three " * 100, 100)])
def test_a_text_without_tokens_or_too_long_is_named(inputs, tmp_path, text, tokens):
    shown = text if len(text) < 60 else f"{text[:60]}..."
    with pytest.raises(ConfigError, match=rf"^text '{shown}' has {tokens} tokens, should have 1 to 75 for the text "):
        embedded_texts(inputs[0], ["one", text], StorageConfig(), tmp_path)
