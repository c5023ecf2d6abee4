"""The nearest by one matrix product against every distance in float64: the same, whatever the product was taken in."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from promptfleet.methods.experts import nearest as module
from promptfleet.methods.experts.nearest import nearest

SCALES = {"float64": 2**14, "float32": 1}  # MANY_POINTS


def by_every_distance(points, among, query, count, farthest=False):
    others = [other for other in among.nonzero().flatten().tolist() if other != query]
    away = points[others].double() - points[query].double()
    order = torch.argsort(away.flatten(1).norm(dim=1), stable=True, descending=farthest)
    return [others[index] for index in order[:count].tolist()]


def clustered(seed, points, width, *, spread, offset, dtype=torch.float32):
    """Points around a few centres, far from the origin: where rounding hurts; some of them stand twice."""
    generator = torch.Generator().manual_seed(seed)
    centres = offset + torch.randn(3, width, generator=generator)
    found = centres[torch.arange(points) % 3] + spread * torch.randn(points, width, generator=generator)
    found[points // 2] = found[0]
    return found.to(dtype).view(points, 2, -1)


@pytest.mark.parametrize("product", SCALES)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 9999),
    points=st.integers(1, 40),
    width=st.sampled_from([2, 24, 130]),
    spread=st.sampled_from([0.0, 1e-6, 1e-3, 1.0]),
    offset=st.sampled_from([0.0, 30.0, 1e6, 2e19]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    count=st.integers(0, 8),
    farthest=st.booleans(),
)
@example(0, 40, 130, 1e-3, 30.0, torch.float32, 5, False)
def test_the_product_leaves_out_nobody_who_belongs(
    product, seed, points, width, spread, offset, dtype, count, farthest
):
    among = torch.rand(points, generator=torch.Generator().manual_seed(seed)) < 0.8
    held = clustered(seed, points, width, spread=spread, offset=offset, dtype=dtype)
    queries = among.nonzero().flatten().tolist()
    with patch.object(module, "MANY_POINTS", SCALES[product]):
        found = nearest(held, among, queries, count, farthest=farthest)
    assert found == [by_every_distance(held, among, query, count, farthest) for query in queries]


@pytest.mark.parametrize("product", SCALES)
def test_more_queries_and_points_than_one_block_holds(monkeypatch, product):
    monkeypatch.setattr(module, "MANY_POINTS", SCALES[product])
    monkeypatch.setattr(module, "QUERIES", 7)
    monkeypatch.setattr(module, "BLOCK_BYTES", 5 * 4 * 96)
    monkeypatch.setattr(module, "PAIR_BYTES", 3 * 8 * 96)
    held, everybody = clustered(4, 50, 96, spread=0.1, offset=2.0), torch.ones(50, dtype=torch.bool)
    found = nearest(held, everybody, range(50), 4)
    assert found == [by_every_distance(held, everybody, query, 4) for query in range(50)]


def test_few_candidates_are_left_of_many(monkeypatch):
    ranked, left = module.ranked, []

    def counting(flat, queries, pairs, *rest, **options):
        left.append(pairs[0].bincount().tolist())
        return ranked(flat, queries, pairs, *rest, **options)

    monkeypatch.setattr(module, "ranked", counting)
    held = torch.randn(600, 64, generator=torch.Generator().manual_seed(0))
    nearest(held, torch.ones(600, dtype=torch.bool), range(10), 9)
    monkeypatch.setattr(module, "MANY_POINTS", 1)
    nearest(held, torch.ones(600, dtype=torch.bool), range(10), 9)
    assert left == [[9] * 10] * 2
