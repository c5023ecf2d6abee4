"""A pool on disk is to its users what a tensor in memory is, and states of any round stay what they were."""

import hashlib
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfleet.errors import DataError
from promptfleet.federation.server_rows import KeptRows
from promptfleet.methods.experts.nearest import nearest
from promptfleet.methods.experts.on_disk import OnDisk
from promptfleet.methods.experts.selection import select_experts
from promptfleet.methods.experts.sketch_search import nearest_by_sketch
from promptfleet.methods.experts.sketches import principal_frame, sketch
from promptfleet.seeding import stream

CLIENTS, SHAPE = 6, (2, 3)


def no_entries(rows, clients=CLIENTS, shape=SHAPE, dtype=torch.float32):
    return OnDisk.empty(clients, {"context": shape}, dtype, rows)


def with_entries(pool, contexts, clients):
    return pool.with_new({"context": dict(zip(clients, contexts, strict=True))})


def read_again(pool, rows):
    """The same pool from its state, by another server."""
    return OnDisk.of(pool.state(), pool.shapes, pool.dtype, rows)


def everything(entries):
    return entries[torch.arange(len(entries))]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float16]))
def test_any_round_has_what_a_dict_would_whatever_was_written_since(data, dtype):
    """Rounds are added, and gone back to: what was written after them is written over, by the same or by others."""
    with tempfile.TemporaryDirectory() as folder:
        rows = KeptRows(Path(folder))
        pools, wanted, next_value = [no_entries(rows, dtype=dtype)], [{}], 1.0
        for _ in range(data.draw(st.integers(1, 8))):
            if len(pools) > 1 and data.draw(st.booleans()):
                back_to = data.draw(st.integers(0, len(pools) - 1))
                del pools[back_to + 1 :], wanted[back_to + 1 :]
                if data.draw(st.booleans()):
                    rows = KeptRows(Path(folder))  # another server
                    pools = [read_again(pool, rows) for pool in pools]
            cohort = sorted(data.draw(st.sets(st.integers(0, CLIENTS - 1), min_size=1)))
            new = {client: torch.full(SHAPE, next_value + i) for i, client in enumerate(cohort)}
            next_value += len(cohort)
            pools.append(with_entries(pools[-1], new.values(), cohort))
            wanted.append(wanted[-1] | {client: entry.to(dtype) for client, entry in new.items()})

            for pool, held in zip(pools, wanted, strict=True):
                entries = pool["context"]
                expected = torch.stack([held.get(client, torch.zeros(SHAPE, dtype=dtype)) for client in range(CLIENTS)])
                assert torch.equal(everything(entries), expected)
                ids = torch.tensor(data.draw(st.lists(st.integers(0, CLIENTS - 1), max_size=5)), dtype=torch.int64)
                assert torch.equal(entries[ids], expected[ids])
                assert [len(block) for block in entries.split(4)] == [4, 2]
                assert torch.equal(torch.cat(list(entries.flatten(1).split(4))), expected.flatten(1))
        content = (Path(folder) / "context").read_bytes()
        row_bytes = wanted[-1][cohort[0]].nbytes
        digest, start = bytes(32), 0
        for pool in pools[1:]:
            end = int(pool.state()["pool.end"]) * row_bytes
            digest, start = hashlib.sha256(digest + content[start:end]).digest(), end
            assert bytes(pool.state()["pool.digest"].tolist()) == digest


@pytest.fixture
def both(tmp_path):
    """The same 200 points in memory, and on disk after three rounds; nobody has the last ten."""
    generator = torch.Generator().manual_seed(0)
    points, pool = torch.zeros(200, 8, 8), no_entries(KeptRows(tmp_path), 200, (8, 8))
    for cohort in (torch.arange(150), torch.randperm(190, generator=generator)[:90], torch.arange(140, 190)):
        points[cohort] = torch.randn(len(cohort), 8, 8, generator=generator)
        pool = with_entries(pool, points[cohort], cohort.tolist())
    assert (pool.place >= 0).sum() == 190
    return points, pool["context"], pool.place >= 0


def test_indexing_is_that_of_a_tensor(both):
    points, entries, _ = both
    assert len(entries) == len(points)
    assert entries.shape == points.shape
    assert entries.flatten(1).shape == points.flatten(1).shape
    for ids in (torch.tensor([[3, 199, 3], [0, 1, 2]]), torch.tensor([], dtype=torch.int64), torch.tensor(7), 7):
        assert torch.equal(entries[ids], points[ids])
    assert torch.equal(entries[torch.arange(5).numpy()], points[:5])


def test_searching_is_that_of_a_tensor(both):
    points, entries, there = both
    frames = [principal_frame(one, there, stream(0, "frame")) for one in (points, entries)]
    sketches = [sketch(one, frames[0]) for one in (points, entries)]
    assert torch.equal(*frames)
    assert torch.equal(*sketches)
    for farthest in (False, True):
        found = [nearest(one, there, range(0, 190, 7), 9, farthest=farthest) for one in (points, entries)]
        assert found[0] == found[1]
    for shortlist in (None, 20):
        found = [
            nearest_by_sketch(one, sketches[0], there, range(0, 190, 7), 9, shortlist=shortlist)
            for one in (points, entries)
        ]
        assert found[0] == found[1]
    chosen = [select_experts(one, there.long(), range(200), 3) for one in (points, entries)]
    assert chosen[0] == chosen[1]


def test_no_more_is_read_than_was_asked_for(both, monkeypatch):
    _, entries, _ = both
    read, reading = [], KeptRows.read

    def count(self, kind, ids, *rest):
        read.append(len(ids))
        return reading(self, kind, ids, *rest)

    monkeypatch.setattr(KeptRows, "read", count)
    blocks = entries.split(32)
    assert read == []
    next(blocks)
    entries[torch.tensor([1, 199])]  # nobody has the latter
    assert read == [32, 1]


def test_a_file_that_was_cut_off_is_told(tmp_path):
    rows = KeptRows(tmp_path)
    pool = with_entries(no_entries(rows), torch.ones(4, *SHAPE), [0, 1, 2, 5])
    pool.check()
    (tmp_path / "context").write_bytes((tmp_path / "context").read_bytes()[:-1])
    rows = KeptRows(tmp_path)
    pool = read_again(pool, rows)
    with pytest.raises(DataError, match=r"context: cut off or of another federation \(95 bytes, .* needs 96\)$"):
        pool.check()
    with pytest.raises(DataError, match=r"context: cut off after 95 bytes$"):
        everything(pool["context"])
    rows.check("text", 0, 24)
    assert not (tmp_path / "text").exists()
