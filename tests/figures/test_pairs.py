"""Two accuracies of each client: together for a few methods, a panel each for many."""

from promptfleet.figures.pairs import base_new_figure, local_global_figure


def dots(count):
    return {f"method {number}": ([0.5, 0.75], [0.25, number / 20]) for number in range(count)}


def offsets(axes):
    return [one.get_offsets().tolist() for one in axes.collections]


def test_few_methods_are_drawn_together_with_a_cross_at_each_mean():
    (axes,) = local_global_figure(dots(2)).axes
    assert offsets(axes) == [
        *([[0.5, 0.25], [0.75, 0.0]], [[0.625, 0.125]]),
        *([[0.5, 0.25], [0.75, 0.05]], [[0.625, 0.15]]),
    ]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["equal on both", "method 0", "method 1"]


def test_many_methods_get_a_panel_each_in_front_of_all_others():
    figure = base_new_figure(dots(30))
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == [f"method {number}" for number in range(30)]
    _, everybody, own, cross = offsets(panels[7])
    assert (len(everybody), own, cross) == (60, [[0.5, 0.25], [0.75, 0.35]], [[0.625, 0.3]])
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in panels}) == 1


def test_points_of_equal_harmonic_mean_are_joined():
    (axes,) = base_new_figure(dots(2)).axes
    contour = axes.collections[0]
    for level, path in zip(contour.levels, contour.get_paths(), strict=True):
        for across, up in path.vertices:
            assert abs(2 * across * up / (across + up) - level) < 0.01
    assert "equal harmonic mean" in [text.get_text() for text in axes.get_legend().get_texts()]
