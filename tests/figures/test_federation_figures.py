"""Figures of one federation: what is drawn is what was given."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.cbook import is_math_text
from matplotlib.colors import to_rgba

from promptfleet.data.partition_counts import PartitionCounts
from promptfleet.figures import style
from promptfleet.figures.accuracy import accuracy_figure
from promptfleet.figures.experts import experts_figure
from promptfleet.figures.gate import gate_figure
from promptfleet.figures.partition import partition_figure
from tests.tracking.values import (
    CLASS_NAMES,
    DOMAIN_COUNTS,
    DOMAIN_LABEL_COUNTS,
    DOMAIN_NAMES,
    EXPERTS,
    GATE_WEIGHTS,
    LABEL_COUNTS,
)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def labelled(axes, part):
    """The one artist whose label contains ``part``."""
    handles, labels = axes.get_legend_handles_labels()
    (found,) = [handle for handle, label in zip(handles, labels, strict=True) if part in label]
    return found


def accuracies(rounds, clients):
    return [[(r + c) / (rounds + clients) for c in range(clients)] for r in range(rounds)]


def test_accuracy_has_a_line_per_client_and_the_mean():
    val, test = accuracies(3, 4), accuracies(3, 4)[::-1]
    left, right = accuracy_figure([1, 2, 3], val=val, test=test, zero_shot=0.3, best_round=2).axes
    for axes, values in ((left, val), (right, test)):
        mean = labelled(axes, "mean of 4 clients")
        assert mean.get_xdata().tolist() == [1, 2, 3]
        assert mean.get_ydata() == pytest.approx(np.mean(values, axis=1))
        thin = [line for line in axes.lines if line.get_linewidth() < 1]
        assert pytest.approx(np.array(values)) == np.array([line.get_ydata() for line in thin]).T
        assert list(labelled(axes, "best validation mean: round 2").get_xdata()) == [2, 2]
    dashed = labelled(right, "zero-shot CLIP, mean 0.300")
    assert (dashed.get_linestyle(), list(dashed.get_ydata())) == ("--", [0.3, 0.3])
    assert not any("zero-shot" in label for label in left.get_legend_handles_labels()[1]), "it is a test accuracy"


def test_accuracy_of_many_clients_is_two_bands():
    values = accuracies(5, 100)
    left, _ = accuracy_figure(range(1, 6), val=values, test=values).axes
    assert len(left.lines) == 1
    outer, inner = labelled(left, "worst to best"), labelled(left, "middle half")
    first = np.array(values[0])
    low, high = np.percentile(first, [25, 75])
    for band, bottom, top in ((outer, first.min(), first.max()), (inner, low, high)):
        corners = band.get_paths()[0].vertices
        at_first = corners[corners[:, 0] == 1][:, 1]
        assert (at_first.min(), at_first.max()) == (pytest.approx(bottom), pytest.approx(top))


@pytest.mark.parametrize(
    ("lowest", "zero_shot", "low", "high"),
    [(0.6, None, 0.55, 0.6), (0.6, 0.3, 0.2, 0.3), (0.0, None, -0.05, 0.0), (1.0, None, 0.85, 0.9)],
)
def test_accuracy_starts_a_little_below_the_smallest_value(lowest, zero_shot, low, high):
    figure = accuracy_figure(
        [1, 2], val=[[0.99, 1.0], [1.0, 1.0]], test=[[lowest, 1.0], [1.0, 1.0]], zero_shot=zero_shot
    )
    for axes in figure.axes:
        bottom, top = axes.get_ylim()
        assert low < bottom < high
        assert 1.0 < top < 1.05


@pytest.mark.parametrize("rounds", [1, 2, 7, 50])
def test_round_axes_have_whole_numbers(rounds):
    values = accuracies(rounds, 3)
    figure = accuracy_figure(range(1, rounds + 1), val=values, test=values, best_round=1)
    figure.draw_without_rendering()
    ticks = figure.axes[0].get_xticks()
    assert ticks.tolist() == ticks.round().tolist()
    assert figure.axes[0].get_xlabel() == "communication round"


def counts(label_counts, class_names=CLASS_NAMES, *, domain_counts=None, **domains) -> PartitionCounts:
    label_counts = np.asarray(label_counts)
    sizes = label_counts.sum(axis=1)
    return PartitionCounts(
        class_names=class_names,
        domain_names=domains.get("domain_names", []),
        part_sizes=np.stack([sizes - 3, sizes * 0 + 1, sizes * 0 + 2], axis=1).tolist(),
        label_counts=label_counts.tolist(),
        domain_counts=domain_counts or [[]] * len(label_counts),
        domain_label_counts=domains.get("domain_label_counts", []),
    )


def bars(axes, edge="width"):
    """``[clients][names]``."""
    return np.array([[getattr(bar, f"get_{edge}")() for bar in drawn] for drawn in axes.containers]).T.tolist()


def legend_texts(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_partition_bars_are_the_counts():
    labels, parts = partition_figure(counts(LABEL_COUNTS)).axes
    assert bars(labels) == LABEL_COUNTS
    assert bars(labels, "x") == [[0, 10, 10], [0, 0, 8], [0, 5, 10]]
    assert legend_texts(labels) == CLASS_NAMES
    assert bars(parts) == [[9, 1, 2], [6, 1, 2], [12, 1, 2]]
    assert legend_texts(parts) == ["train", "validation", "test"]
    assert labels.yaxis_inverted(), "client 0 is on top"


def test_partition_with_domains_shows_whose_they_are_and_what_is_in_them():
    figure = partition_figure(
        counts(
            LABEL_COUNTS,
            domain_counts=DOMAIN_COUNTS,
            domain_names=DOMAIN_NAMES,
            domain_label_counts=DOMAIN_LABEL_COUNTS,
        )
    )
    _, _, domains, heat_map, _ = figure.axes
    assert bars(domains) == DOMAIN_COUNTS
    assert legend_texts(domains) == DOMAIN_NAMES
    assert heat_map.images[0].get_array().tolist() == DOMAIN_LABEL_COUNTS
    assert texts(heat_map) == ["15", "5", "7", "0", "8", "1"]
    assert [label.get_text() for label in heat_map.get_yticklabels()] == DOMAIN_NAMES


def test_partition_of_many_classes_is_a_heat_map():
    names = [f"class {label}" for label in range(100)]
    held = np.arange(400).reshape(4, 100)
    heat_map, parts, scale = partition_figure(counts(held, names)).axes
    assert heat_map.get_legend() is None
    assert heat_map.images[0].get_array().tolist() == held.tolist()
    assert [text.get_text() for text in heat_map.get_xticklabels()][:2] == ["0  class 0", "10  class 10"]
    assert scale.get_ylabel() == "samples (all parts)"
    assert heat_map.get_ylim() == parts.get_ylim() == (3.5, -0.5)


def test_partition_of_a_thousand_clients_shows_a_hundred():
    figure = partition_figure(counts(np.arange(1000)[:, None] * [1, 0] + [3, 0], ["a", "b"]))
    axes = figure.axes[0]
    widths = [bar.get_width() for bar in axes.containers[0]]
    assert (len(widths), widths[0], widths[-1]) == (100, 3, 1002)
    assert "100 of 1000 clients" in axes.get_title(loc="left")


def test_twenty_classes_can_be_told_apart():
    axes = partition_figure(counts(np.ones((2, 20), dtype=int), [str(label) for label in range(20)])).axes[0]
    looks = {(bars[0].get_facecolor(), bars[0].get_hatch()) for bars in axes.containers}
    assert len(looks) == 20


def test_experts_matrix_holds_ranks():
    top, matrix, _ = experts_figure(EXPERTS).axes
    ranks = np.ma.filled(matrix.images[0].get_array(), np.nan)
    nan = np.nan
    np.testing.assert_array_equal(ranks, [[nan, 2, 1], [1, nan, nan], [nan, nan, nan]])
    assert texts(matrix) == ["2", "1", "1"]
    assert [bar.get_height() for bar in top.patches] == [1, 1, 1], "how often each was selected"


def test_experts_of_a_hundred_clients_are_not_written_out():
    experts = [[(client + step) % 100 for step in (1, 2, 3)] for client in range(100)]
    top, matrix, scale = experts_figure(experts).axes
    assert texts(matrix) == []
    assert len(matrix.get_xticks()) <= 26
    assert scale.get_yticks().tolist() == [1, 2, 3]
    assert {bar.get_height() for bar in top.patches} == {3}


@pytest.mark.parametrize("draw", [experts_figure, gate_figure])
@pytest.mark.parametrize("nothing", [[], [[], [], []]])
def test_nothing_to_see_is_no_figure(draw, nothing):
    assert draw(nothing) is None


def test_gate_bars_are_means_over_the_clients_that_have_the_expert():
    left, right, _ = gate_figure(GATE_WEIGHTS).axes
    assert [bar.get_height() for bar in left.patches] == pytest.approx([0.625, 0.275, 0.2])
    assert [bar.get_facecolor()[:3] for bar in left.patches] == [
        to_rgba(color)[:3] for color in (style.BLUE, style.ORANGE, style.ORANGE)
    ], "the local expert stands out"
    dots = [np.ma.compressed(np.ma.masked_invalid(dot.get_offsets()[:, 1])).tolist() for dot in left.collections]
    assert dots == [[0.5, 0.75], [0.3, 0.25], [0.2]]
    equal = labelled(left, "equal weights, 1/3")
    assert list(equal.get_ydata()) == [1 / 3, 1 / 3]
    shown = np.ma.filled(right.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(shown, [[0.5, 0.3, 0.2], [0.75, 0.25, np.nan], [np.nan] * 3])
    assert [label.get_text() for label in left.get_xticklabels()] == ["local", "1", "2"]
    assert "over 2 clients" in left.get_title(loc="left")


@pytest.mark.parametrize("experts", [2, 10])
def test_nearly_equal_gate_weights_stay_pale_and_are_written_out(experts):
    weights = np.full((3, experts), 1 / experts)
    weights[1, 0] += 0.0004
    _, right, _ = gate_figure(weights.tolist()).axes
    assert texts(right) == [f"{weight:.3f}" for weight in weights.flat]
    assert right.get_title(loc="left").endswith(f"up to 0.0004 from 1/{experts}")
    lowest, highest = right.images[0].get_clim()
    assert highest - lowest == pytest.approx(0.04), "noise does not get strong colours"
    assert (lowest + highest) / 2 == pytest.approx(1 / experts)


def test_gate_weights_of_many_clients_are_not_written_out():
    _, right, _ = gate_figure([[0.5, 0.5]] * 100).axes
    assert texts(right) == []


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (1, [0]), (5, [0, 1, 2, 3, 4]), (11, [0, 2, 4, 6, 8, 10]), (100, list(range(0, 100, 10)))],
)
def test_ticks_are_round_numbers(count, expected):
    assert style.spaced_ticks(count, most=10) == expected


@settings(max_examples=40)
@given(st.text(max_size=30) | st.text("$\\\\_{}^ab", max_size=30))
@example("$x$ ray")
@example("between $5 and $10")
@example(r"\$a$")
def test_a_label_shows_the_name_as_it_is(name):
    label = style.as_label(name, 40)
    assert not is_math_text(label)
    assert not label.startswith("_")
    shown = label.replace(r"\$", "$").removeprefix(" " if name.startswith("_") else "")
    assert len(shown) <= 40
    if name.isascii() and name.isprintable():
        assert shown == name


def test_names_with_formulas_controls_or_missing_letters_are_drawn_without_a_warning():
    names = ["$x$ ray", r"$\frac", "_hidden", "\x1b[31mred", "\u732b", "caf\udce9", "a\nb"]
    counts = PartitionCounts(
        class_names=names,
        domain_names=["_first", "$\\a$"],
        part_sizes=[[1, 2, 4]],
        label_counts=[[1] * 7],
        domain_counts=[[3, 4]],
        domain_label_counts=[[1] * 7] * 2,
    )
    figure = partition_figure(counts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO())
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert shown == [r"\$x\$ ray", r"\$\frac", " _hidden", r"\x1b[31mred", r"\u732b", r"caf\xe9", r"a\nb"]
