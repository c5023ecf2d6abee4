import torch

from promptfleet.methods.experts.in_memory import updated


def test_updated_replaces_entries_in_a_copy():
    pool = torch.tensor([1.0, 2.0, 3.0]).view(-1, 1, 1)
    new = updated(pool, {2: torch.tensor([[30.0]]), 0: torch.tensor([[10.0]])})
    assert new.flatten().tolist() == [10, 2, 30]
    assert pool.flatten().tolist() == [1, 2, 3]


def test_half_precision_keeps_its_largest_number_for_what_is_beyond():
    pool = updated(torch.zeros(2, 2, dtype=torch.float16), {1: torch.tensor([1e6, -3e38])})
    assert pool.tolist() == [[0, 0], [65504, -65504]]
