from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfleet.methods.parts.averaging import average, mean_over_clients, trimmed, trimmed_mean_over_clients
from tests.fakes import tiny_world
from tests.tiny_federation import ALL, tiny_federation


def test_mean_is_weighted_by_examples():
    mean = mean_over_clients({7: torch.tensor([1.0]), 2: torch.tensor([4.0])}, {2: 2, 7: 1})
    assert mean.tolist() == [3.0]
    assert mean.dtype == torch.float32


@pytest.mark.parametrize("aggregation", ["mean", "median", "trimmed_mean"])
@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([torch.tensor([10, 20]), torch.tensor([30, 40])], [24.0, 34.0]),
        ([torch.tensor([True, False]), torch.tensor([True, True])], [1.0, 0.7]),
    ],
)
def test_counts_and_masks_have_a_mean_of_real_numbers(values, mean, aggregation):
    uploads = {client: {"count": tensor} for client, tensor in enumerate(values)}
    found = average(tiny_world(aggregation=aggregation).config, uploads, {0: 3, 1: 7})["count"]
    if aggregation != "mean":  # of two, both count the same
        mean = torch.stack(values).double().mean(dim=0).tolist()
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(mean)


def test_mean_does_not_depend_on_the_order_of_uploads():
    generator = torch.Generator().manual_seed(0)
    tensors = {client: torch.randn(3, 4, generator=generator) for client in range(5)}
    weights = {client: client + 3 for client in range(5)}
    mean = mean_over_clients(tensors, weights)
    assert torch.equal(mean_over_clients(dict(reversed(tensors.items())), weights), mean)
    exact = sum(weights[client] * tensors[client].double() for client in range(5)) / sum(weights.values())
    assert torch.allclose(mean.double(), exact, atol=1e-6)


def aggregated(values, aggregation, **config):
    """Average uploads of one number each, all senders but the first with one example."""
    uploads = {client: {"context": torch.tensor([value])} for client, value in enumerate(values)}
    weights = {client: 1000 if client == 0 else 1 for client in uploads}
    return average(tiny_world(aggregation=aggregation, **config).config, uploads, weights)["context"].item()


def test_median_and_trimmed_mean_count_every_client_the_same():
    assert aggregated([9.0, 1.0, 2.0], "median") == 2.0
    assert aggregated([9.0, 1.0, 2.0, 4.0], "median") == 3.0
    assert aggregated([9.0, 1.0, 2.0, 4.0, -50.0], "trimmed_mean", trim_fraction=0.2) == pytest.approx(7 / 3)
    assert aggregated([9.0, 1.0, 2.0, 4.0], "trimmed_mean", trim_fraction=0.0) == 4.0


@pytest.mark.parametrize(
    ("uploads", "fraction", "left_out"),
    [(10, 0.2, 2), (10, 0.3, 3), (9, 0.2, 2), (4, 0.2, 1), (3, 0.2, 1), (2, 0.2, 0), (1, 0.4, 0), (10, 0.49, 4)],
)
def test_at_either_end_at_least_the_fraction_is_left_out_as_long_as_something_stays(uploads, fraction, left_out):
    config = tiny_world(aggregation="trimmed_mean", trim_fraction=fraction).config
    assert trimmed(config, uploads) == left_out


@settings(max_examples=60, deadline=None)
@given(data=st.data(), clients=st.integers(1, 9))
def test_each_coordinate_is_trimmed_on_its_own_in_any_order_of_clients(data, clients):
    numbers = st.lists(st.integers(-9, 9), min_size=3, max_size=3)
    rows = data.draw(st.lists(numbers, min_size=clients, max_size=clients))
    trim = data.draw(st.integers(0, (clients - 1) // 2))
    tensors = {client: torch.tensor(row, dtype=torch.float32) for client, row in enumerate(rows)}
    mean = trimmed_mean_over_clients(tensors, trim)
    shuffled = dict(data.draw(st.permutations(list(tensors.items()))))
    assert torch.equal(trimmed_mean_over_clients(shuffled, trim), mean)
    for column, found in zip(zip(*rows, strict=True), mean.tolist(), strict=True):
        kept = sorted(column)[trim : clients - trim]
        assert found == pytest.approx(float(Fraction(sum(kept), len(kept))), abs=1e-6)
        assert min(kept) <= found <= max(kept)


@settings(max_examples=40, deadline=None)
@given(lies=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=2, max_size=2))
def test_two_liars_of_ten_move_a_robust_average_no_farther_than_the_honest_ones_reach(lies):
    honest = [0.1 * k for k in range(8)]
    for aggregation in ("median", "trimmed_mean"):
        assert 0 <= aggregated([*honest, *lies], aggregation, trim_fraction=0.2) <= 0.7 + 1e-6


@pytest.mark.parametrize("method", ["promptfl", "fedprox", "fedper", "fedpgp", "fedtpg", "pfedmoap"])
def test_every_method_that_averages_takes_the_aggregation_that_is_set(method):
    states = []
    for aggregation in ("mean", "median", "trimmed_mean"):
        federation = tiny_federation(method, aggregation=aggregation, trim_fraction=0.25, prompt_length=2)
        states.append(federation.run([ALL]).server.state)
    mean, median, trimmed_mean = states
    changed = [name for name in mean if not torch.equal(mean[name], median[name])]
    assert changed
    # of four values one is left out at either end, which is the median
    assert all(torch.equal(median[name], trimmed_mean[name]) for name in median)
