"""The best trial's prompts in a file, and the words nearest to them."""

from dataclasses import replace

import pytest
import torch

from promptfleet import load_prompts
from promptfleet.clip.backbone import load_backbone
from promptfleet.errors import DataError, StorageError
from promptfleet.federation.settings import federation_config
from promptfleet.search.prompts import write_prompts
from promptfleet.tensor_file import write_tensors
from tests.tracking.values import make_config, make_result

WORDS = ("a", "photo", "of")
POOL = "server/pool.context"


@pytest.fixture(scope="module")
def embedded():
    """The vectors of some words that glyph-clip knows, ``[words, width]``."""
    config = make_config()
    backbone = load_backbone(config.backbone)
    tokens = backbone.tokenize([" ".join(WORDS)])[0, 1 : 1 + len(WORDS)]
    return backbone.tower.weights["token_embedding.weight"][tokens]


def written(path, embedded, names=("context",), **config):
    """Return the prompts of a federation whose states have contexts of these names, of which each client has one.

    Its clients 0 and 2 trained, and client 2 was rejected. As many tokens as classes, and width as dim of the features.
    """
    config = federation_config({"clients": 3, "prompt_length": 10, **config})
    text = torch.zeros(10, embedded.shape[1])
    pool = torch.stack([embedded, embedded.flip(0)])
    server = {**dict.fromkeys(names, embedded + 1e-4), f"pool.{names[0]}": pool, "text": text}
    private = {f"own.{names[-1]}": embedded.flip(0), "own.text": text, "gate.query.weight": torch.zeros(2, 2)}
    result = replace(make_result(config), server=server, privates=dict.fromkeys(range(3), private))
    write_prompts(path, result, config, {"sweep": "gating", "trial": "7"})
    return load_prompts(path)


def test_the_file_has_the_contexts_of_the_server_and_of_clients_that_trained(tmp_path, embedded):
    prompts = written(tmp_path / "prompts.safetensors", embedded)
    assert [*prompts.tensors] == ["client_000/own.context", "client_002/own.context", "server/context", POOL]
    assert torch.equal(prompts.tensors["client_002/own.context"], embedded.flip(0))
    shown = ("method", "dataset", "seed", "sweep", "trial")
    assert [prompts.about[name] for name in shown] == ["pfedmoap", "digits", "0", "gating", "7"]


@pytest.mark.parametrize(
    ("method", "names"),
    [("dualpt", ("contexts",)), ("fedper", ("shared", "private")), ("fedabml", ("mean",)), ("fedjets", ("experts",))],
)
def test_a_method_says_which_names_are_contexts(tmp_path, embedded, method, names):
    prompts = written(tmp_path / "prompts.safetensors", embedded, names, method=method)
    of_server = {f"server/{name}" for name in names} | {f"server/pool.{names[0]}"}
    assert prompts.tensors.keys() == of_server | {f"client_{client}/own.{names[-1]}" for client in ("000", "002")}


def test_the_nearest_words_of_words_are_these_words(tmp_path, embedded):
    prompts = written(tmp_path / "prompts.safetensors", embedded)
    words = prompts.nearest_words("server/context", 2)
    assert [row[0][0] for row in words] == list(WORDS)
    assert all(0 < row[0][1] < 0.01 < row[1][1] for row in words)
    assert not any(word.startswith("<") for row in prompts.nearest_words("server/context", 60) for word, _ in row)
    assert [row[0][0] for row in prompts.nearest_words(POOL)] == [*WORDS, *reversed(WORDS)]
    text = prompts.describe_words("client_000/own.context", 1)
    assert "client_000/own.context: nearest words" in text
    assert "of 0.000" in text
    with pytest.raises(DataError, match=r"no prompt 'server/contex'; there are: client_000/own.context, "):
        prompts.nearest_words("server/contex")


def test_a_method_without_contexts_has_no_file(tmp_path):
    path = tmp_path / "prompts.safetensors"
    path.write_text("of an earlier best trial")
    result = replace(make_result(), server={"head": torch.zeros(4, 4)}, privates={})
    write_prompts(path, result, make_config(), {})
    assert not path.exists()


def test_what_is_no_file_of_prompts_is_said_in_one_line(tmp_path):
    with pytest.raises(StorageError, match=r"nowhere\.safetensors"):
        load_prompts(tmp_path / "nowhere.safetensors")
    (tmp_path / "text").write_text("prompts")
    with pytest.raises(DataError, match="text: damaged"):
        load_prompts(tmp_path / "text")
    write_tensors(tmp_path / "other", {"a": torch.zeros(2)})
    with pytest.raises(DataError, match="other: is no file of prompts"):
        load_prompts(tmp_path / "other")
