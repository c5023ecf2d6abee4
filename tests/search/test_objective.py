"""Objectives of a search: read, computed from a round, and their sets evaluated in each round."""

import pytest

from promptfleet.errors import ConfigError
from promptfleet.federation.reports import RoundReport
from promptfleet.search.objective import Objective, objective_of, parse_objective
from promptfleet.search.spec import parse_sweep
from promptfleet.search.study import SweepStudy
from tests.federation.scores import evaluation

SPACE = {"space": {"prompt_lr": {"float": [0.01, 0.1]}}}
THREE = [
    evaluation(0, 0.5, 0.0, **{"val/global": 1.0, "val/server": 0.25}),
    evaluation(1, 1.0, 0.0, **{"val/global": 0.5}),
    evaluation(2, 0.1, 0.0, **{"val/global": 0.1}),
]


@pytest.fixture
def report():
    return RoundReport.of(1, [0], [], {}, THREE, 1.0, adversaries=[2])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("val/local", 0.75),
        ("val/global", 0.75),
        ("val/server", 0.25),
        ("harmonic(val/local, val/global)", (2 / 3 + 2 / 3) / 2),
        ("harmonic(val/local,val/global, val/server)", (3 / (2 + 1 + 4) + 3 / (1 + 2 + 4)) / 2),
    ],
)
def test_an_objective_is_a_mean_over_the_clients_that_do_not_attack(report, text, value):
    objective = parse_objective(text, source="a")
    assert objective.value(report, [2]) == pytest.approx(value)
    assert objective_of(objective, [report, report], [[2], [2]]) == pytest.approx(value)
    assert parse_objective(objective.name, source="a") == objective


def test_the_server_alone_has_one_value(report):
    assert Objective(("val/server",)).of_clients(report, [0, 2]) == [0.25]
    assert Objective(("val/local",)).of_clients(report, [2]) == [0.5, 1.0, None]
    assert Objective(("val/local", "val/server")).of_clients(report, [0, 2]) == [None, pytest.approx(0.4), None]


def test_a_round_without_its_sets_has_no_value(report):
    assert Objective(("val/others",)).value(report, []) is None
    assert Objective(("val/local", "val/others")).value(report, []) is None
    unevaluated = RoundReport.of(1, [0], [], {}, [], 1.0, clients=3)
    assert Objective().value(unevaluated, []) is None
    assert Objective(("val/local", "val/server")).value(unevaluated, []) is None


def test_the_sets_of_the_objective_are_evaluated_in_each_round(tmp_path):
    spec = parse_sweep({**SPACE, "objective": ["val/local", "val/global"]}, source="a")
    sets = spec.config({"prompt_lr": 0.02}).evaluation.sets
    assert (sets.global_, sets.others) == ("each", "last_and_best")
    assert spec.settings.objective == "harmonic(val/local, val/global)"
    assert parse_sweep(spec.to_dict(), source="a") == spec
    study = SweepStudy(tmp_path, spec.space, spec.settings, 2)
    assert study.objective == Objective(("val/local", "val/global"))
    assert parse_sweep(SPACE, source="a").config({"prompt_lr": 0.02}).evaluation.sets.global_ == "last_and_best"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objective": "test/global"}, "test/global is measured on test samples: a choice by it would make the report"),
        ({"objective": "harmonic(val/local, test/local)"}, "use val/local"),
        ({"objective": "val/globl"}, "there is no validation set 'val/globl'; did you mean 'val/global'?"),
        ({"objective": "harmonic(val/local)"}, "should have two or more different sets"),
        ({"objective": ["val/local", "val/local"]}, "should have two or more different sets"),
        ({"objective": "val/server"}, "a: objective: val/server: the server of pfedmoap has no model"),
        (
            {"objective": "val/global", "federation": {"evaluation": {"sets": {"global": "never"}}}},
            "objective: val/global needs evaluation.sets.global=each; leave evaluation.sets.global out",
        ),
        ({"objective": "val/global", "objectives": {"val/local": "max"}}, "val/local"),
        ({"space": {"evaluation.every": {"int": [1, 2]}}}, "a sweep keeps evaluation.every fixed"),
    ],
)
def test_objectives_that_cannot_be_meant_are_refused_in_one_line(values, message):
    with pytest.raises(ConfigError) as error:
        parse_sweep({**SPACE, **values}, source="a")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
