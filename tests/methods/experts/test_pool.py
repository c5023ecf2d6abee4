"""The pool as one value: the same in memory and on disk, and never changed."""

import numpy as np
import pytest
import torch

from promptfleet.federation.server_rows import KeptRows
from promptfleet.methods.experts.options import PoolConfig
from promptfleet.methods.experts.pool import ExpertPool
from promptfleet.methods.protocol import Arrived, Call, Message
from tests.fakes import tiny_world

GLOBAL = {"context": torch.zeros(2, 3), "text": torch.zeros(4, 5)}
CLIENTS = 6


def arrived(round_index, clients):
    rng = np.random.default_rng(round_index)
    uploads = {
        client: Message(
            {"context": torch.from_numpy(rng.normal(size=(2, 3)).astype(np.float32))},
            {"text": torch.from_numpy(rng.normal(size=(4, 5)).astype(np.float32))},
        )
        for client in clients
    }
    return Arrived(tiny_world(), round_index, uploads, dict.fromkeys(clients, 1), rng)


def call(clients, round_index=3):
    return Call(tiny_world(), round_index, clients, "train", np.random.default_rng(round_index))


def filled(rows=None, selection="nearest", **options):
    """A pool after two rounds; client 5 has no entry."""
    pool = ExpertPool.empty(CLIENTS, GLOBAL, PoolConfig(**options), selection, rows)
    return pool.with_uploads(arrived(1, [0, 1, 2, 4])).with_uploads(arrived(2, [1, 3]))


@pytest.fixture
def rows(tmp_path):
    return KeptRows(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("selection", ["nearest", "farthest", "random"])
def test_a_pool_on_disk_gives_the_experts_of_one_in_memory(rows, selection, dtype):
    in_memory, on_disk = (filled(rows, selection, dtype=dtype, storage=storage) for storage in ("memory", "disk"))
    one, other = (pool.select(call([4, 5, 0]), 2) for pool in (in_memory, on_disk))
    assert list(one) == list(other) == [4, 5, 0]
    assert [len(one[client].ids) for client in one] == [2, 0, 2]
    for client, experts in one.items():
        assert torch.equal(experts.ids, other[client].ids)
        for own, same, kind in zip(
            (experts.contexts, experts.texts), (other[client].contexts, other[client].texts), GLOBAL, strict=True
        ):
            assert own.dtype == torch.float32
            assert torch.equal(own, same)
            assert torch.equal(own, in_memory.entries[kind][experts.ids].float())


@pytest.mark.parametrize("options", [{}, {"search": "projected"}, {"storage": "disk", "search": "projected"}], ids=str)
def test_a_pool_is_read_from_its_state(rows, options):
    pool = filled(rows, **options)
    state = {**GLOBAL, **pool.state()}
    again = ExpertPool.of(state, pool.config, "nearest", rows)
    assert {name: tensor.tolist() for name, tensor in again.state().items()} == {
        name: tensor.tolist() for name, tensor in pool.state().items()
    }
    assert ("pool.sketch" in state) == ("search" in options)
    assert again.select(call([0]), 3)[0].ids.tolist() == pool.select(call([0]), 3)[0].ids.tolist()


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_new_uploads_leave_the_pool_as_it_was(rows, storage):
    pool = filled(rows, storage=storage)
    before = {name: tensor.clone() for name, tensor in pool.state().items()}
    contexts = pool.entries["context"][torch.arange(CLIENTS)].clone()
    later = pool.with_uploads(arrived(3, [0, 5]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in pool.state().items())
    assert torch.equal(pool.entries["context"][torch.arange(CLIENTS)], contexts)
    assert later.rounds.tolist() == [3, 2, 1, 2, 1, 3]


def test_outliers_are_found_with_a_tolerance_only():
    far = arrived(3, [2])
    far.uploads[2].tensors["context"] += 100
    for tolerance, wanted in ((None, []), (5.0, [2])):
        pool = filled(outlier_tolerance=tolerance).with_uploads(far)
        assert list(pool.outliers().distances) == wanted
        experts = pool.select(call([0, 2]), 4)
        assert (2 in experts[0].ids.tolist()) == (tolerance is None)
        assert experts[2].ids.sort().values.tolist() == [0, 1, 3, 4]
