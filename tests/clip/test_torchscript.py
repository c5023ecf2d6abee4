import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from promptfleet.clip.checkpoint import read_weights
from promptfleet.clip.torchscript import is_torchscript, read_torchscript
from promptfleet.errors import BackboneError

pytestmark = pytest.mark.filterwarnings("ignore")  # tracing warns about each branch


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(4, 2)
        self.mask = torch.full((2, 2), -torch.inf)  # an attribute, neither parameter nor buffer
        self.sizes = [1, 2]

    def forward(self, x):
        return self.attn(x, x, x, attn_mask=self.mask)[0]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.BatchNorm1d(4)
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.shared = self.blocks[0].attn.out_proj

    def forward(self, x):
        return self.norm(self.blocks(x)[:, 0]) * self.scale


@pytest.fixture(params=[torch.jit.script, lambda model: torch.jit.trace(model, torch.ones(2, 3, 4))])
def archive(request, tmp_path):
    torch.manual_seed(0)
    module = request.param(Model().half().float().eval())
    module.save(str(tmp_path / "model.pt"))
    return tmp_path / "model.pt", module


def test_weights_are_those_of_the_archived_module(archive):
    path, module = archive
    assert is_torchscript(path)
    state = read_torchscript(path)
    assert state.keys() == module.state_dict().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in module.state_dict().items())
    assert read_weights(path).is_openai  # nobody else publishes archives


def test_other_files_are_none(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"PK")
    assert not is_torchscript(tmp_path / "a.pt")
    assert not is_torchscript(tmp_path / "b.pt")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("evil", "refers to "),
        ("cut", "damaged, or not a file of weights (Ran out of input)"),
        ("no module", "not a file of weights"),
    ],
)
def test_a_crafted_archive_is_refused_and_runs_nothing(tmp_path, content, complaint):
    data = pickle.dumps(Evil(tmp_path / "pwned") if content == "evil" else [1, 2], protocol=2)
    path = tmp_path / "crafted.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", b"")
        archive.writestr("model/data.pkl", data[:-2] if content == "cut" else data)
    with pytest.raises(BackboneError) as caught:
        read_weights(path)
    assert str(caught.value).startswith(f"{path}: {complaint}")
    assert os.listdir(tmp_path) == ["crafted.pt"]
