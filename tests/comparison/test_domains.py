"""Comparisons that leave out one domain after the other, and their common table."""

import json
from dataclasses import replace

import pytest

from promptfleet.comparison.domains import DomainTable, domains_to_leave_out
from promptfleet.comparison.each_domain import EachDomain
from promptfleet.comparison.spec import ComparisonSpec
from promptfleet.errors import ConfigError
from promptfleet.federation.evaluation.scores import Score, SetAccuracy
from promptfleet.federation.settings import federation_config
from tests.comparison.values import make_summary


def on_unseen(*accuracies):
    """Results of the methods a and b with the seeds 0, 1, ...; None for a federation without one."""
    results = {}
    for place, value in enumerate(accuracies):
        if value is not None:
            accuracy = {"test/unseen_domain": SetAccuracy.of([Score(value, 10)])}
            results["ab"[place // 2], place % 2] = replace(make_summary([0.5] * 3), accuracy=accuracy)
    return results


def test_the_average_is_over_domains_for_each_seed():
    table = DomainTable.of({"real": on_unseen(0.5, 0.7, 0.8, 0.8), "sketch": on_unseen(0.1, 0.1, 0.4, 0.6)})
    assert table.table.headers == ["method", "real", "sketch", "average"]
    assert table.table.rows == [
        ["b", "80.0 ± 0.0", "50.0 ± 14.1", "65.0 ± 7.1"],
        ["a", "60.0 ± 14.1", "10.0 ± 0.0", "35.0 ± 7.1"],
    ]
    assert table.accuracy["b"]["average"].values == [pytest.approx(0.6), pytest.approx(0.7)]
    files = table.files()
    assert "| **b**  | **80.0 ± 0.0** | 50.0 ± 14.1 | 65.0 ± 7.1 |" in files["domains.md"]
    assert json.loads(files["domains.json"])["accuracy"]["a"]["real"]["values"] == [0.5, 0.7]
    assert files["domains.tex"].count(" & ") == 9


def test_a_failed_federation_leaves_its_method_without_an_average():
    table = DomainTable.of({"real": on_unseen(0.5, 0.7, 0.8, 0.8), "sketch": on_unseen(0.1, 0.1, None, 0.6)})
    assert table.table.rows[1] == ["b", "80.0 ± 0.0", "-", "-"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "dataset=digits should have two domains or more, it has 0"),
        ({"partition.held_out_domain": "noisy"}, "leaves out each domain; remove partition.held_out_domain=noisy"),
    ],
)
def test_what_has_no_domains_to_leave_out_is_refused(values, message):
    partition = {key.removeprefix("partition."): value for key, value in values.items()}
    with pytest.raises(ConfigError, match=f"^--leave-one-domain-out: {message}$"):
        domains_to_leave_out(federation_config({"partition": partition}))


def test_each_domain_of_the_dataset_is_left_out():
    assert len(domains_to_leave_out(federation_config({"dataset": "digits_styles"}))) == 5


def test_the_federations_of_all_domains_are_one_list():
    specs = {
        name: ComparisonSpec(("coop", "promptfl"), (0,), {"clients": size}, {}) for name, size in (("a", 2), ("b", 3))
    }
    found = [(config.method, config.clients) for config in EachDomain(specs, "mine", None).configs()]
    assert found == [("coop", 2), ("promptfl", 2), ("coop", 3), ("promptfl", 3)]
