"""Figures by the names in what a method describes."""

import numpy as np
import pytest

from promptfleet.figures.described import described_figures, heat_map

CLIENTS = [
    {"experts": [1], "gate_weights": [0.75, 0.25], "masks": [0.1, 0.9, 0.4]},
    {"experts": [0], "gate_weights": [0.5, 0.5], "masks": [0.3, None]},
    {},
]


def test_each_described_name_has_its_figure():
    drawn = {name: draw() for name, draw in described_figures(CLIENTS)}
    assert list(drawn) == ["experts", "gate", "masks"]
    titles = {name: [axes.get_title(loc="left") for axes in figure.axes] for name, figure in drawn.items()}
    assert titles["experts"][0] == "Experts selected after the last round"
    assert titles["gate"][0] == "Mean gate weight over 2 clients"
    assert titles["masks"][0] == "masks after the last round"


def test_a_method_that_describes_nothing_has_no_figure():
    assert list(described_figures([{}, {}])) == []


@pytest.mark.parametrize("rows", [[(), ()], [[None], ()]])
def test_without_a_value_there_is_no_heat_map(rows):
    assert heat_map("masks", rows) is None


def test_a_heat_map_has_a_row_for_each_client_and_gaps_for_what_it_lacks():
    figure = heat_map("masks", [client.get("masks", ()) for client in CLIENTS])
    shown = np.ma.filled(figure.axes[0].get_images()[0].get_array(), np.nan)
    expected = [[0.1, 0.9, 0.4], [0.3, np.nan, np.nan], [np.nan] * 3]
    np.testing.assert_array_equal(shown, expected)
