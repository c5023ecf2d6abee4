"""The nearest by sketches against every distance in float64: the same, but for what a shortlist may miss."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from promptfleet.methods.experts import sketch_search as module
from promptfleet.methods.experts.nearest import nearest
from promptfleet.methods.experts.sketch_search import nearest_by_sketch
from tests.methods.experts.test_nearest import by_every_distance
from tests.methods.experts.test_sketches import POINTS, points_of, sketches_of


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 60),
    wanted=st.integers(0, 8),
    first=st.sampled_from([1, 5, 32]),
    most=st.sampled_from([0.1, 1.0]),
    **POINTS,
)
@example("clustered", 0, 60, 200, 1e19, 0.0, torch.float32, 5, 5, 1.0)
@example("sphere", 0, 60, 40, 1e-22, 0.0, torch.float32, 5, 32, 1.0)
@example("normal", 2, 9, 200, 1e-22, 0.0, torch.float32, 1, 1, 0.1)  # squares that float32 has no numbers for
def test_sketches_leave_out_nobody_who_belongs(kind, seed, count, width, scale, offset, dtype, wanted, first, most):
    points = points_of(kind, seed, count, width, scale=scale, offset=offset, dtype=dtype)
    among = torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.8
    queries = among.nonzero().flatten().tolist()
    if not queries:
        return
    sketches, _ = sketches_of(points, among)
    with patch.object(module, "FIRST", first), patch.object(module, "MOST", most):
        found = nearest_by_sketch(points, sketches, among, queries, wanted)
    assert found == [by_every_distance(points, among, query, wanted) for query in queries]


@patch.object(module, "MOST", 1.0)
def test_distances_that_float32_cannot_tell_apart_are_told_apart():
    everybody = torch.ones(60, dtype=torch.bool)
    for seed in range(20):
        points = points_of("sphere", seed, 60, 200)
        found = nearest_by_sketch(points, sketches_of(points)[0], everybody, [0], 5)
        assert found == [by_every_distance(points, everybody, 0, 5)]


def few_directions(seed, points):
    """With noise in all others, as trained prompts have it."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(10, 512, generator=generator)
    noise = 0.3 * torch.randn(points, 512, generator=generator)
    return torch.randn(points, 10, generator=generator) @ directions + noise


def test_points_with_few_directions_are_hardly_looked_at(monkeypatch):
    points, looked_at, near = few_directions(3, 6_000), [], module._near

    def counting(flat, query, ids, count):
        looked_at.append(len(ids))
        return near(flat, query, ids, count)

    monkeypatch.setattr(module, "_near", counting)
    everybody, queries = torch.ones(len(points), dtype=torch.bool), range(0, 6_000, 300)
    sketches, _ = sketches_of(points)
    exact = nearest_by_sketch(points, sketches, everybody, queries, 9)
    assert exact == nearest(points, everybody, queries, 9)
    assert sum(looked_at) < 0.02 * len(points) * len(queries)
    looked_at.clear()
    found = nearest_by_sketch(points, sketches, everybody, queries, 9, shortlist=64)
    assert looked_at == [64] * len(queries)
    hits = sum(len(set(one) & set(other)) for one, other in zip(found, exact, strict=True))
    assert hits >= 0.97 * 9 * len(queries)


def test_points_without_directions_go_through_a_product(monkeypatch):
    points, everybody, products = points_of("normal", 0, 400, 500), torch.ones(400, dtype=torch.bool), []

    def counting(points, among, queries, count):
        products.extend(queries)
        return nearest(points, among, queries, count)

    monkeypatch.setattr(module, "nearest", counting)
    found = nearest_by_sketch(points, sketches_of(points)[0], everybody, [5, 3, 9], 4)
    assert products == [5, 3, 9]
    assert found == [by_every_distance(points, everybody, query, 4) for query in (5, 3, 9)]


@pytest.mark.parametrize("shortlist", [50, 10**6])
def test_a_shortlist_of_everybody_misses_nobody(shortlist):
    points, among = points_of("clustered", 7, 50, 96), torch.arange(50) % 5 > 0
    queries, (sketches, _) = among.nonzero().flatten().tolist(), sketches_of(points)
    found = nearest_by_sketch(points, sketches, among, queries, 4, shortlist=shortlist)
    assert found == nearest(points, among, queries, 4)
    assert nearest_by_sketch(points, sketches, among, [], 4, shortlist=shortlist) == []


def test_fewer_come_back_where_there_are_fewer():
    points, among = points_of("normal", 0, 6, 4), torch.tensor([True, True, False, True, False, False])
    found = nearest_by_sketch(points, sketches_of(points)[0], among, [0, 3], 5, shortlist=4)
    assert found == nearest(points, among, [0, 3], 5)
    assert [len(ids) for ids in found] == [2, 2]
