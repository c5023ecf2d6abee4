"""Sketches are no farther apart than what they are of, whatever rounding does."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfleet.methods.experts.sketches import WIDTH, lower_bounds, lowest_bounds, principal_frame, sketch

KINDS = ["clustered", "normal", "sphere", "equal", "zero", "one direction"]
POINTS = {  # what is drawn for ``points_of``, beside their number
    "kind": st.sampled_from(KINDS),
    "seed": st.integers(0, 9999),
    "width": st.sampled_from([2, 40, 200]),
    "scale": st.sampled_from([1e-22, 1e-6, 1.0, 1e15, 1e37]),
    "offset": st.sampled_from([0.0, 1.0, 1e6]),
    "dtype": st.sampled_from([torch.float32, torch.float16]),
}


def points_of(kind, seed, count, width, *, scale=1.0, offset=0.0, dtype=torch.float32):
    """``[count, 2, width / 2]``; the first and the middle one are the same."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, width, generator=generator)
    centres = 20 * torch.randn(3, width, generator=generator)
    drawn = {
        "clustered": centres[torch.arange(count) % 3] + noise,
        "normal": noise,
        "sphere": torch.cat([0 * noise[:1], noise[1:] / noise[1:].norm(dim=1, keepdim=True)]),  # all alike to the first
        "equal": centres[:1].expand(count, width).clone(),
        "zero": torch.zeros(count, width),
        "one direction": noise[:, :1] * centres[:1],
    }[kind]
    drawn[count // 2] = drawn[0]
    limit = torch.finfo(dtype).max
    return (offset + scale * drawn).clamp(-limit, limit).to(dtype).view(count, 2, -1)


def sketches_of(points, held=None, *, seed=0):
    held = torch.ones(len(points), dtype=torch.bool) if held is None else held
    frame = principal_frame(points, held, np.random.default_rng(seed))
    return sketch(points, frame), frame


@settings(max_examples=80, deadline=None)
@given(count=st.integers(1, 90), **POINTS)
def test_no_bound_is_above_the_distance(kind, seed, count, width, scale, offset, dtype):
    points = points_of(kind, seed, count, width, scale=scale, offset=offset, dtype=dtype)
    sketches, _ = sketches_of(points)
    bounds, constants = lower_bounds(sketches, sketches)
    exact = points.double().flatten(1)
    distances = (exact.unsqueeze(1) - exact).norm(dim=2)
    below = bounds.double() + constants
    below = below.nan_to_num(nan=-torch.inf, posinf=-torch.inf)  # where float32 ends, nothing is said
    assert (below <= distances.square() * (1 + 1e-12) + 1e-37).all()


def test_groups_have_the_lowest_bound_of_those_that_count(monkeypatch):
    monkeypatch.setattr("promptfleet.methods.experts.sketches.AT_ONCE", 32)
    sketches, _ = sketches_of(points_of("normal", 1, 90, 40))
    among = torch.arange(90) % 3 > 0
    among[64:80] = False
    lowest, bounds = lowest_bounds(sketches, among, sketches[:5]), lower_bounds(sketches, sketches[:5])[0]
    wanted = [
        [bounds[start : start + 16][among[start : start + 16], i].tolist() for start in range(0, 90, 16)]
        for i in range(5)
    ]
    assert lowest[:, 4].tolist() == [torch.inf] * 5
    for row, groups in zip(lowest.tolist(), wanted, strict=True):
        assert row == [pytest.approx(min(group, default=torch.inf), rel=1e-4) for group in groups]


def test_directions_are_orthonormal_and_sketches_what_they_leave():
    points = points_of("clustered", 3, 300, 200)
    sketches, frame = sketches_of(points)
    directions, away = frame[1:].double(), points.flatten(1).double() - frame[0].double()
    assert torch.allclose(directions @ directions.T, torch.eye(WIDTH - 1, dtype=torch.float64), atol=1e-6)
    along = away @ directions.T
    assert torch.allclose(sketches[:, :-1].double(), along, atol=1e-5)
    assert torch.allclose(sketches[:, -1].double(), (away - along @ directions).norm(dim=1), atol=1e-5)


def test_three_directions_are_found_and_hold_every_distance():
    spanned = torch.randn(80, 3, generator=torch.Generator().manual_seed(0)) @ torch.eye(3, 500)
    sketches, _ = sketches_of(spanned)
    assert float(sketches[:, 3:].abs().max()) < 1e-5
    assert torch.allclose(torch.pdist(sketches), torch.pdist(spanned), atol=1e-5)


def test_a_frame_of_two_points_is_their_middle_and_the_line_through_them():
    points = torch.tensor([[1.0, 2.0], [1.0, 6.0], [50.0, 50.0]])
    held = torch.tensor([True, True, False])
    sketches, frame = sketches_of(points, held)
    assert frame[0].tolist() == [1, 4]
    assert frame[1].abs().tolist() == pytest.approx([0, 1], abs=1e-7)
    assert sketches[:2, 0].abs().tolist() == pytest.approx([2, 2])
    assert not frame[3:].any()


def test_a_sample_is_a_function_of_its_generator():
    points = points_of("normal", 0, 600, 40)  # more than a sample
    frames = [sketches_of(points, seed=seed)[1] for seed in (0, 0, 1)]
    assert torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[0], frames[2])
