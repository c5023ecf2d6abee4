import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from promptfleet.clip import torch_archive
from promptfleet.clip.checkpoint import read_weights
from promptfleet.clip.torch_archive import read_archive
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
    state, is_script = read_archive(path)
    assert is_script
    assert state.keys() == module.state_dict().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in module.state_dict().items())
    assert read_weights(path).is_openai  # nobody else publishes archives


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.txt", "weights"])
def test_the_kind_of_an_archive_goes_by_its_content(archive, tmp_path, name):
    path, module = archive
    path.rename(tmp_path / name)
    weights = read_weights(tmp_path / name)
    assert weights.is_openai
    assert weights.tensors.keys() == module.state_dict().keys()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("evil", "refers to "),
        ("cut", "damaged, or not a file of weights (cut short)"),
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


def change(path, **records):
    """Write the archive again with other records; those of None are left out."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    prefix = next(iter(content)).partition("/")[0]
    content |= {f"{prefix}/{name}": record for name, record in records.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, record in content.items():
            if record is not None:
                archive.writestr(name, record)
    return path


@pytest.fixture
def saved(tmp_path):
    """Weights of one tensor, ``[2, 3]``."""
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(2, 3)}, path)
    return path


def pickle_with(path, old, new):
    with zipfile.ZipFile(path) as archive:
        content = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    assert content.count(old) == 1
    return change(path, **{"data.pkl": content.replace(old, new)})


def refusal(path):
    with pytest.raises(BackboneError) as caught:
        read_weights(path)
    return str(caught.value).removeprefix(f"{path}: ")


SHAPE = b"K\x02K\x03\x86"
STRIDE = b"K\x03K\x01\x86"
BILLION = b"J\x00\xca\x9a\x3b"


def test_sizes_are_held_against_the_storage_before_memory_is_taken(saved):
    """Strides of 0 need no numbers: a tensor of eight billion would take 36 GB, from a file of 700 bytes."""
    pickle_with(saved, SHAPE, b"K\x08" + BILLION + b"\x86")
    pickle_with(saved, STRIDE, b"K\x00K\x00\x86")
    assert refusal(saved).endswith("(a tensor of 8000000000 numbers in a storage of 6)")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (SHAPE, b"K\x02K\x04\x86", "a tensor of 8 numbers in a storage of 6"),
        (STRIDE, b"K\x09K\x01\x86", "setStorage"),
        (b"K\x06", BILLION, "storage 0 has 6 numbers, should have 1000000000"),
        (b"K\x06", b"K\x05", "storage 0 has 6 numbers, should have 5"),
        (b"FloatStorage", b"DoubleStorage", "storage 0 has 3 numbers, should have 6"),
        (b"_rebuild_tensor_v2", b"_rebuild_qtensor", "holds quantized tensors; save plain float32"),
        (b"_rebuild_tensor_v2", b"_rebuild_tensor", "1"),
        (b"FloatStorage", b"ComplexFloatStorage", "refers to torch.ComplexFloatStorage: only tensors are loaded"),
        (b"K\x06", b"I" + b"9" * 5000 + b"\n", "damaged, or not a file of weights"),
    ],
)
def test_what_does_not_fit_the_storage_is_refused(saved, old, new, complaint):
    pickle_with(saved, old, new)
    if complaint == "1":
        assert torch.equal(read_weights(saved).tensors["a"], torch.ones(2, 3))
    else:
        assert complaint in refusal(saved)


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(saved, monkeypatch):
    monkeypatch.setattr(torch_archive, "CODE", 1000)
    with zipfile.ZipFile(saved, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data/1", bytes(10**6))
    assert refusal(saved).endswith("(its files are larger than it)")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_two_files_of_one_name_is_refused(saved):
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr("weights/data.pkl", pickle.dumps({}))
    assert refusal(saved).endswith("(two of its files have one name)")


def test_a_storage_that_is_not_there_and_numbers_of_another_machine(saved):
    assert "big-endian" in refusal(change(saved, byteorder=b"big"))
    change(saved, byteorder=b"little", **{"data/0": None})
    assert "no item named" in refusal(saved)


def test_a_pickle_cannot_change_the_reader(saved):
    """BUILD sets attributes; on what stands in for torch's functions it finds none."""
    content = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x05\x00\x00\x00buildcbuiltins\nset\ns\x86b."
    change(saved, **{"data.pkl": content})
    assert refusal(saved).startswith("damaged, or not a file of weights")
