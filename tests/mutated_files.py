"""Files from strangers: real ones of each kind that is read, with their bytes, records, texts or values mutated."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.io import savemat
from torch import nn

from promptfleet.data.feature_store import write_features
from promptfleet.federation.checkpoints import checkpoint
from promptfleet.federation.reports import RoundReport
from promptfleet.federation.rounds import Snapshot
from tests.federation.scores import evaluation
from tests.mutated import mutate

NUMBERS = [
    bytes(8),
    b"\xff" * 8,
    b"\xff\xff\xff\x7f",
    b"\x00\xca\x9a\x3b",
    b"\x00\x00\x00\x80",
    struct.pack("<d", 1e300),
]
PICKLED = [  # operations, and what a program could be made to do
    *(
        b".",
        b"(",
        b"]",
        b"}",
        b")",
        b"N",
        b"0",
        b"2",
        b"R",
        b"b",
        b"a",
        b"e",
        b"s",
        b"u",
        b"\x81",
        b"\x85",
        b"\x86",
        b"Q",
    ),
    *(
        b"h\x00",
        b"h\x05",
        b"q\x00",
        b"r\xff\xff\xff\x7f",
        b"r\xff\xff\xff\x1f",
        b"p99999999\n",
        b"\x85" * 300,
        b"]q\x00h\x00a",
    ),
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\ngetattr\n", b"ctorch\nload\n", b"cnumpy\nndarray\n"),
    *(
        b"K\x00K\x00\x86",
        b"J\x00\xca\x9a\x3b",
        b"\x8a\x08" + b"\xff" * 8,
        b"I" + b"9" * 5000 + b"\n",
        b"I01\n",
        b"\x88",
    ),
    *(
        b"U\x02S0",
        b"U\x02U0",
        b"X\xff\xff\xff\x7f",
        b"T\xff\xff\xff\x7f",
        b"\x8e" + b"\xff" * 8,
        b"\x96\xff\xff\xff\x7f\x00\x00\x00\x00",
    ),
]
WRITTEN = [  # text that means something to JSON and others
    *(
        b"1e30",
        b"1e400",
        b"-1",
        b"0.7",
        b"true",
        b"null",
        b"NaN",
        b'"0"',
        b"9" * 5000,
        b"1000000000",
        b"{",
        b"]",
        b"\\ud800",
    ),
    *(b"[" * 300, b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b",", b'"', b"../../etc/passwd", b"\x1b[2J"),
]
PIECES = st.one_of(*map(st.sampled_from, (NUMBERS, PICKLED, WRITTEN)), st.binary(max_size=9))


@st.composite
def damaged(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """One of ``contents`` with some bytes replaced, inserted, removed, doubled or cut off."""
    return _damage(draw, draw(st.sampled_from(contents)))


@st.composite
def archives(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """A zip file with right checksums, of which one file is damaged."""
    with zipfile.ZipFile(io.BytesIO(draw(st.sampled_from(contents)))) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    pickles = [name for name in files if name.endswith("data.pkl")]
    name = draw(st.sampled_from([*pickles * len(files), *files]))
    files[name] = _damage(draw, files[name])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


@st.composite
def headers(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """A file of safetensors with another header, of the length that it says."""
    content = draw(st.sampled_from(contents))
    (length,) = struct.unpack("<Q", content[:8])
    header = draw(st.one_of(texts([content[8 : 8 + length]]), damaged([content[8 : 8 + length]])))
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


@st.composite
def texts(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """JSON with some values replaced, removed, moved or nested; of an object or a list."""
    value = {"value": json.loads(draw(st.sampled_from(contents)))}
    for _ in range(draw(st.integers(1, 3))):
        mutate(draw, value)
    return json.dumps(value.get("value")).encode()


@st.composite
def checkpoints(draw: st.DrawFn, path: Path) -> bytes:
    """The checkpoint at ``path`` with another text, whose checksum is right."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    del metadata["sha256"]
    name = draw(st.sampled_from(["files", "clients", "reports", "evaluations"]))
    content = draw(st.one_of(texts([metadata[name].encode()]), damaged([metadata[name].encode()])))
    metadata[name] = content.decode("latin1")
    altered = path.with_name("altered")
    save_file(load_file(path), altered, {**metadata, "sha256": checkpoint._checksum(metadata)})
    return altered.read_bytes()


def _damage(draw: st.DrawFn, content: bytes) -> bytes:
    for _ in range(draw(st.sampled_from([1, 1, 2, 4]))):
        at, length = draw(st.integers(0, len(content))), draw(st.sampled_from([0, 1, 1, 4, 8, 60]))
        kind = draw(st.sampled_from(["replace", "replace", "insert", "remove", "double", "flip", "flip", "cut"]))
        before, there, after = content[:at], content[at : at + length], content[at + length :]
        if kind == "replace":
            piece = draw(PIECES)
            content = before + piece + content[at + len(piece) :]
        elif kind == "insert":
            content = before + draw(PIECES) + there + after
        elif kind == "remove":
            content = before + after
        elif kind == "double":
            content = before + there * draw(st.sampled_from([2, 3, 1000])) + after
        elif kind == "flip":
            flipped = bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in there[:1])
            content = before + flipped + content[at + len(flipped) :]
        elif draw(st.booleans()):
            content = before
    return content


# The real ones


def saved(save: Callable, value: object, path: Path) -> bytes:
    save(value, path)
    return path.read_bytes()


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 2)
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return self.inner(x) * self.logit_scale


def weight_files(folder: Path) -> dict[str, bytes]:
    """Some tensors as each of the formats has them."""
    state = {"logit_scale": torch.tensor(1.0), "visual.proj": torch.ones(4, 3), "ids": torch.arange(5)}
    checkpoint = {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3, "lr": 0.1}
    return {
        "torch": saved(torch.save, state, folder / "torch"),
        "checkpoint": saved(torch.save, checkpoint, folder / "checkpoint"),
        "old": saved(lambda *given: torch.save(*given, _use_new_zipfile_serialization=False), state, folder / "old"),
        "safetensors": saved(save_file, state, folder / "safetensors"),
        "script": saved(lambda model, path: torch.jit.script(model).save(str(path)), Scripted(), folder / "script"),
    }


def pickles() -> list[bytes]:
    pixels = np.zeros((2, 3072), np.uint8)
    cifar = {"data": pixels, "fine_labels": [0, 1], b"filenames": [b"a.png", b"b.png"]}
    pair = (np.array(["real/bird/1.jpg", "2.jpg"]), np.array(["bird", "bird"], dtype=object))
    return [pickle.dumps(value, protocol) for value in (cifar, pair, [np.int64(1)]) for protocol in (0, 2, 5)]


def matlab_files() -> list[bytes]:
    files = []
    for options in ({}, {"do_compression": True}, {"format": "4"}):
        savemat(file := io.BytesIO(), {"labels": np.arange(1, 9), "text": "flowers"}, **options)
        files.append(file.getvalue())
    return files


def feature_file(folder: Path) -> bytes:
    features = np.arange(12, dtype=np.float32).reshape(4, 3)
    return write_features(folder, {"backbone": "b", "dataset": "d"}, features, np.array([0, 1, 1, 0])).read_bytes()


def images() -> list[bytes]:
    noise = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    files = []
    for name in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "AVIF", "TIFF", "PPM", "JPEG2000", "TGA"):
        Image.fromarray(noise).save(file := io.BytesIO(), name)
        files.append(file.getvalue())
    return [*files, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run\n"]


def snapshot(rounds: int = 1) -> Snapshot:
    """That of a federation of three clients."""
    evaluations = [evaluation(client, 0.5, 0.25, {"gate": [0.1, 1]}) for client in range(3)]
    reports = [RoundReport.of(one, [0, 2], [], {2: "NaN"}, evaluations, 1.5) for one in range(1, rounds + 1)]
    privates = {client: {"prompt": torch.full((2, 3), float(client))} for client in range(3)}
    return Snapshot({"context": torch.ones(2)}, privates, reports, evaluations)


def checkpoint_file(folder: Path) -> Path:
    """The snapshot on disk."""
    return checkpoint.save_snapshot(folder, snapshot(), "x").path
