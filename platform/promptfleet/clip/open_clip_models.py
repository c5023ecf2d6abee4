"""Models of open_clip: their architecture, their weights, and the settings of their training."""

import logging
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import huggingface_hub
import open_clip
import torch
from open_clip.transform import PreprocessCfg
from torch import nn

from promptfleet.clip.backbone import GLYPH_CLIP
from promptfleet.clip.checkpoint import load_weights, read_weights
from promptfleet.clip.text_tower import text_tower_of
from promptfleet.config import BackboneConfig
from promptfleet.errors import BackboneError, did_you_mean
from promptfleet.seeding import stream

HUB = "hf-hub:"
HUB_TIMEOUT_S = 5.0
_NO_VISION = {"image_size": 8, "patch_size": 8, "layers": 1, "width": 8, "head_width": 8}

logger = logging.getLogger(__name__)


def open_model(settings: BackboneConfig, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model that ``settings`` name, and its architecture in the form of open_clip's model files.

    QuickGELU is used if open_clip's entry for the tag says so, if the architecture's name does (``-quickgelu``), and
    for files in OpenAI's own format. With a checkpoint, a tag says how the file's weights were trained: its activation
    and its image preprocessing.

    Raises:
        BackboneError: see ``promptfleet.clip.backbone.load_backbone``.
    """
    name, tag, file = settings.name, settings.pretrained, settings.checkpoint
    if name.startswith(HUB):
        if tag or file:
            raise BackboneError(f"backbone.name={name} has its own weights: leave out {tag or file!r}")
        return _from_hub(name)
    architecture = _architecture(name)
    check_architecture(name, architecture)
    if not (tag or file):
        raise BackboneError(
            f"backbone.name={name} needs weights: set backbone.pretrained (such as openai, or random) or "
            "backbone.checkpoint (a file)"
        )
    if settings.is_random:
        if file:
            raise BackboneError(f"backbone.pretrained=random and backbone.checkpoint={file}: leave one out")
        logger.warning("backbone %s: %s", settings.label, settings.caveat)
        return _build(architecture, {}, seed), architecture
    trained = _tag(name, tag) if tag else {}
    architecture["quick_gelu"] = architecture.get("quick_gelu", False) or trained.get("quick_gelu", False)
    if not file:
        with _hub_or_cache(settings.label):
            model = open_clip.create_model(name, pretrained=tag, force_quick_gelu=architecture["quick_gelu"])
        return model, architecture
    weights = read_weights(file)
    architecture["quick_gelu"] = architecture["quick_gelu"] or weights.is_openai
    model = _build(architecture, trained, seed)
    load_weights(model, weights, name)
    if not (tag or weights.is_openai or architecture["quick_gelu"]) and f"{name}-quickgelu" in open_clip.list_models():
        logger.info("%s: taken for weights trained with GELU; else use backbone.name=%s-quickgelu", file, name)
    return model, architecture


def check_architecture(name: str, architecture: Mapping[str, Any]) -> None:
    """Raise BackboneError if the prompt encoder does not support its text side. No weights are made for that."""
    text = architecture["text_cfg"]
    if "hf_model_name" in text:
        raise BackboneError(f"backbone {name!r}: its text tower is not open_clip's own transformer")
    with torch.device("meta"):
        one_layer = open_clip.CustomTextCLIP(architecture["embed_dim"], _NO_VISION, {**text, "layers": 1})
    text_tower_of(one_layer, name)
    if "hf_tokenizer_name" in text or "tokenizer_kwargs" in text:
        raise BackboneError(f"backbone {name!r}: its tokenizer is not CLIP's own")


def _architecture(name: str) -> dict[str, Any]:
    known = open_clip.list_models()
    if name not in known:
        hint = did_you_mean(name, [GLYPH_CLIP, *known])
        raise BackboneError(f"open_clip has no model {name!r}" + (f"; {hint}" if hint else ""))
    return open_clip.get_model_config(name)


def _tag(name: str, tag: str) -> Mapping[str, Any]:
    known = open_clip.list_pretrained_tags_by_model(name)
    trained = open_clip.get_pretrained_cfg(name, tag)
    if not trained:
        hint = did_you_mean(tag, known) or f"there are: {', '.join([*known, 'random'])}"
        raise BackboneError(f"open_clip has no weights {tag!r} of {name}; {hint}")
    return trained


def _from_hub(name: str) -> tuple[nn.Module, dict[str, Any]]:
    with _hub_or_cache(name):
        architecture = open_clip.get_model_config(name)
        check_architecture(name, architecture)
        return open_clip.create_model(name, require_pretrained=True), architecture


def _build(architecture: Mapping[str, Any], trained: Mapping[str, Any], seed: int) -> nn.Module:
    """Return the model with weights drawn from ``seed``, and the preprocessing of ``trained``, by default OpenAI's."""
    values = {key: value for key, value in architecture.items() if key != "custom_text"}
    if "timm_model_name" in values["vision_cfg"]:
        values["vision_cfg"] = {**values["vision_cfg"], "timm_model_pretrained": False}
    model_class = open_clip.CustomTextCLIP if architecture.get("custom_text") else open_clip.CLIP
    with torch.random.fork_rng(devices=[]):  # open_clip draws from the global generator, which stays as it was
        torch.manual_seed(int(stream(seed, "backbone").integers(2**63)))
        model = model_class(**values)
    own = {key: value for key, value in trained.items() if key in asdict(PreprocessCfg())}
    preprocessing = {**asdict(PreprocessCfg()), **own, "size": model.visual.image_size}
    open_clip.model.set_model_preprocess_cfg(model, preprocessing)
    return model


@contextmanager
def _hub_or_cache(label: str) -> Iterator[None]:
    """Let open_clip load from Hugging Face's hub within, or from the cache alone if there is no network.

    Raises:
        BackboneError: what open_clip raised, in one line that says what to do.
    """
    constants = huggingface_hub.constants
    offline_before, logging_before = constants.HF_HUB_OFFLINE, logging.root.manager.disable
    offline = offline_before or not _answers(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = offline
    logging.disable(logging.CRITICAL)  # open_clip logs what it then raises
    try:
        yield
    except BackboneError:
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if offline:
            host = urlsplit(constants.ENDPOINT).hostname
            why = "HF_HUB_OFFLINE is set" if offline_before else f"{host} does not answer"
            reason = f"{why} and they are not in its cache"
        raise BackboneError(
            f"backbone {label}: its weights cannot be had: {reason}. Set backbone.checkpoint to a file of them, or "
            "backbone.name=glyph-clip, which needs no network"
        ) from None
    finally:
        constants.HF_HUB_OFFLINE = offline_before
        logging.disable(logging_before)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_TIMEOUT_S).close()
    except HTTPError:
        return True
    except OSError:
        return False
    return True
