"""Hints in error messages."""

import pytest

from promptfleet.errors import did_you_mean


@pytest.mark.parametrize(
    ("name", "cutoff", "hint"),
    [
        ("digit", 0.6, "did you mean 'digits'?"),
        ("dig", 0.6, "did you mean 'digits'?"),
        ("gist", 0.9, ""),
        ("zzz", 0.6, ""),
        ("zzz", 0, "did you mean 'digits'?"),
    ],
)
def test_the_nearest_name_is_proposed_if_it_is_near(name, cutoff, hint):
    assert did_you_mean(name, iter(["digits", "cifar10"]), cutoff=cutoff) == hint


@pytest.mark.parametrize(
    ("name", "known"), [("fedmp", "fed_mp"), ("FedMP", "fed_mp"), ("Fed-AMP", "fedamp"), ("pFedMoAP", "pfedmoap")]
)
def test_a_name_with_other_marks_or_capitals_is_nearer_than_any_other(name, known):
    assert did_you_mean(name, ["fedamp", "fed_mp", "pfedmoap", "fedper"]) == f"did you mean {known!r}?"


def test_without_names_there_is_no_hint():
    assert did_you_mean("digits", []) == ""
