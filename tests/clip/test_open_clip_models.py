import json
import logging

import huggingface_hub
import open_clip
import pytest
import torch

from promptfleet.clip import open_clip_models
from promptfleet.clip.open_clip_models import check_architecture, open_model
from promptfleet.clip.text_tower import text_tower_of
from promptfleet.config import BackboneConfig
from promptfleet.errors import BackboneError
from tests.clip.small_models import MODEL, TEXT, VISION, assert_same_text_features, small_model


def opened(seed=0, **keys):
    return open_model(BackboneConfig(**{"name": MODEL, **keys}), seed)[0].eval()


def refused(**keys) -> str:
    with pytest.raises(BackboneError) as caught:
        open_model(BackboneConfig(**{"name": MODEL, **keys}), 0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Names and keys


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"name": "ViT-B16", "pretrained": "openai"}, "open_clip has no model 'ViT-B16'; did you mean 'ViT-B-16'?"),
        (
            {"name": "glyph_clip", "pretrained": "openai"},
            "open_clip has no model 'glyph_clip'; did you mean 'glyph-clip'?",
        ),
        ({"name": "%%%", "pretrained": "openai"}, "open_clip has no model '%%%'"),
        (
            {"name": "ViT-B-16"},
            "backbone.name=ViT-B-16 needs weights: set backbone.pretrained (such as openai, or random) or "
            "backbone.checkpoint (a file)",
        ),
        (
            {"name": "ViT-B-16", "pretrained": "opnai"},
            "open_clip has no weights 'opnai' of ViT-B-16; did you mean 'openai'?",
        ),
        (
            {"name": "RN50", "pretrained": "weights.pt"},
            "open_clip has no weights 'weights.pt' of RN50; there are: openai, yfcc15m, cc12m, random",
        ),
        (
            {"name": "RN50", "pretrained": "random", "checkpoint": "a.pt"},
            "backbone.pretrained=random and backbone.checkpoint=a.pt: leave one out",
        ),
        (
            {"name": "hf-hub:a/b", "pretrained": "openai"},
            "backbone.name=hf-hub:a/b has its own weights: leave out 'openai'",
        ),
        (
            {"name": "ViT-B-16-SigLIP", "pretrained": "webli"},
            "backbone 'ViT-B-16-SigLIP': its text tower is not causal, so prompts cannot share a prefix",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(filter(None, value.values())),
)
def test_what_cannot_be_meant(keys, text):
    assert refused(**keys) == text


REFUSALS = (
    "its text tower is not causal, so prompts cannot share a prefix",
    "its text tower is not open_clip's own transformer",
    "text features are pooled by 'eos', not at CLIP's end of text",
    "unsupported text tower (cls_emb)",
)


@pytest.mark.parametrize("name", open_clip.list_models())
def test_each_of_open_clips_architectures_is_accepted_or_refused_by_name(name):
    """Accepted are exactly those with a causal transformer, CLIP's vocabulary and no class token."""
    architecture = open_clip.get_model_config(name)
    text = architecture["text_cfg"]
    is_clips = text.get("vocab_size") == 49408 and not (text.get("no_causal_mask") or text.get("embed_cls"))
    if is_clips:
        check_architecture(name, architecture)
        return
    with pytest.raises(BackboneError) as caught:
        check_architecture(name, architecture)
    assert str(caught.value).removeprefix(f"backbone {name!r}: ") in REFUSALS


def test_a_foreign_tokenizer_is_refused():
    with pytest.raises(BackboneError, match=r"^backbone 'x': its tokenizer is not CLIP's own$"):
        check_architecture("x", {"embed_dim": 24, "text_cfg": {**TEXT, "hf_tokenizer_name": "bert-base-uncased"}})


# QuickGELU and preprocessing


@pytest.mark.parametrize(
    ("keys", "file", "quick_gelu"),
    [
        ({}, "weights.pt", False),
        ({}, "openai.pt", True),
        ({"name": f"{MODEL}-quickgelu"}, "weights.pt", True),
        ({"pretrained": "quick"}, "weights.pt", True),
        ({"pretrained": "plain"}, "weights.pt", False),
    ],
)
def test_activation_is_the_one_that_the_weights_were_trained_with(tiny, monkeypatch, keys, file, quick_gelu):
    tags = {"quick": {"quick_gelu": True}, "plain": {"mean": (0.5, 0.5, 0.5), "resize_mode": "squash"}}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: tags[tag])
    model = opened(checkpoint=str(tiny.folder / file), **keys)
    assert text_tower_of(model).quick_gelu is quick_gelu
    assert (str(model.visual.transformer.resblocks[0].mlp.gelu) == "QuickGELU()") is quick_gelu
    wanted = tags["plain"] if keys.get("pretrained") == "plain" else {"mean": open_clip.OPENAI_DATASET_MEAN}
    assert model.visual.preprocess_cfg.items() >= {**wanted, "size": (16, 16), "interpolation": "bicubic"}.items()


def test_weights_that_do_not_tell_their_activation_are_named(tiny, caplog):
    caplog.set_level(logging.INFO, "promptfleet")
    opened(checkpoint=str(tiny.folder / "openai.pt"))
    assert caplog.messages == []
    path = tiny.folder / "weights.pt"
    opened(checkpoint=str(path))
    assert caplog.messages == [f"{path}: taken for weights trained with GELU; else use backbone.name={MODEL}-quickgelu"]


def test_a_file_that_is_refused_is_not_called_taken(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO, "promptfleet")
    torch.save({**tiny.model.state_dict(), "more": torch.ones(1)}, tmp_path / "weights.pt")
    with pytest.raises(BackboneError, match="keys 1 too many, first 'more'"):
        opened(checkpoint=str(tmp_path / "weights.pt"))
    assert caplog.messages == []


def test_all_of_open_clips_tags_with_quickgelu_get_it():
    """open_clip itself only warns that ``ViT-B-32`` with ``openai`` lacks QuickGELU, and computes with GELU."""
    for name, tag in open_clip.list_pretrained():
        named = open_clip.get_model_config(name).get("quick_gelu", False)
        tagged = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)
        assert tagged or not named or name == "roberta-ViT-B-32", (name, tag)  # a name never says more than its tags


# Random weights


def test_random_weights_are_those_of_the_seed(tiny, caplog):
    before = torch.get_rng_state()
    model = opened(pretrained="random")
    assert torch.equal(torch.get_rng_state(), before)
    assert caplog.messages == [
        f"backbone {MODEL}/random: RANDOM WEIGHTS, for tests and timing: accuracies mean nothing"
    ]
    torch.manual_seed(99)
    again, other = opened(pretrained="random"), opened(pretrained="random", seed=1)
    assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in model.state_dict().items())
    assert not torch.equal(other.visual.proj, model.visual.proj)


# Tags and the hub


@pytest.fixture
def hub(tiny, monkeypatch):
    """A hub that answers, with one model of the tiny architecture, and the tag ``quick`` of QuickGELU weights."""
    config = tiny.folder / "open_clip_config.json"
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    model_config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
    config.write_text(json.dumps({"model_cfg": model_config, "preprocess_cfg": preprocess}))
    files = {"open_clip_config.json": config, None: tiny.folder / "weights.safetensors"}
    tag = {"hf_hub": "tiny/model/", "quick_gelu": True, "mean": (0.25, 0.25, 0.25)}
    monkeypatch.setattr(open_clip_models, "_answers", lambda url: True)
    monkeypatch.setattr(
        open_clip.factory, "download_pretrained_from_hf", lambda model_id, filename=None, **_: str(files[filename])
    )
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda cfg, **_: str(files[None]))
    for module in (open_clip, open_clip.factory):
        monkeypatch.setattr(module, "get_pretrained_cfg", lambda name, wanted: tag if wanted == "quick" else {})


@pytest.mark.filterwarnings("error:QuickGELU mismatch")
def test_a_tag_brings_its_activation_and_its_preprocessing(hub):
    model = opened(pretrained="quick")
    assert text_tower_of(model).quick_gelu
    assert_same_text_features(text_tower_of(model), small_model(quick_gelu=True))
    assert model.visual.preprocess_cfg["mean"] == (0.25, 0.25, 0.25)


def test_a_model_of_the_hub_brings_everything(hub, tiny):
    model = opened(name="hf-hub:tiny/model")
    assert_same_text_features(text_tower_of(model), tiny.model)
    assert list(model.visual.preprocess_cfg["mean"]) == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("keys", [{"name": "ViT-B-32", "pretrained": "openai"}, {"name": "hf-hub:nobody/nothing"}])
def test_without_network_it_says_so_at_once_and_what_to_do(monkeypatch, tmp_path, keys, caplog, capfd):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    label = BackboneConfig(**keys).label
    assert refused(**keys) == (
        f"backbone {label}: its weights cannot be had: 127.0.0.1 does not answer and they are not in its cache. Set "
        "backbone.checkpoint to a file of them, or backbone.name=glyph-clip, which needs no network"
    )
    assert slept == []  # no retries
    assert caplog.messages == []
    assert capfd.readouterr().err == ""
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    assert not logging.root.manager.disable


def test_what_the_hub_says_is_passed_on(hub, monkeypatch):
    def gone(model_id, filename=None, **_):
        raise FileNotFoundError("404 Client Error.\nRepository Not Found")

    monkeypatch.setattr(open_clip.factory, "download_pretrained_from_hf", gone)
    assert refused(name="hf-hub:nobody/nothing").startswith(
        "backbone hf-hub:nobody/nothing: its weights cannot be had: 404 Client Error.. Set backbone.checkpoint"
    )
