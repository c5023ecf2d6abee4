"""Numbers are put side by side only if they belong side by side."""

from dataclasses import replace

import pytest

from promptfleet.comparison.fairness import ComparisonError, check_same_conditions
from tests.comparison.values import make_summary

SAME = make_summary([0.5, 0.6, 0.7])


def check(other):
    check_same_conditions({("a", 0): SAME, ("b", 0): other})


def test_own_values_may_differ_and_seeds_are_apart():
    check(make_summary([0.1, 0.2, 0.3], prompt_lr=0.5, experts=1))
    check_same_conditions({("a", 0): SAME, ("a", 1): make_summary([0.5, 0.6, 0.7], seed=1)})


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (replace(SAME, partition_sha256="1" * 64), "partitions"),
        (replace(SAME, rounds=[replace(SAME.rounds[0], cohort=[0, 1]), *SAME.rounds[1:]]), "cohorts"),
        (replace(SAME, rounds=SAME.rounds[:2]), "rounds done"),
        (make_summary([0.5, 0.6, 0.7], local_epochs=9), "local_epochs"),
        (make_summary([0.5, 0.6, 0.7], batch_size=9), "batch_size"),
    ],
)
def test_other_clients_cohorts_or_budgets_are_refused(other, what):
    with pytest.raises(ComparisonError, match=f"seed 0: a and b cannot be compared: their {what} differ"):
        check(other)


def test_clients_that_train_alone_all_do_so_in_every_round():
    alone = make_summary([0.5, 0.6, 0.7], method="coop")
    rounds = [replace(report, cohort=[0, 1, 2]) for report in alone.rounds]
    check(replace(alone, rounds=rounds))
    check_same_conditions({("b", 0): replace(alone, rounds=rounds), ("a", 0): SAME})
