"""The rounds that examples/one_round.py runs by hand are those of ``run_federation``."""

import ast
import importlib.util

import pytest

import promptfleet
from promptfleet.methods.parts.states import state_sha256


@pytest.fixture
def one_round(root):
    spec = importlib.util.spec_from_file_location("one_round", root / "examples" / "one_round.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_rounds_by_hand_leave_the_states_of_a_federation(one_round, storage, capsys):
    values = {"clients": 3, "local_epochs": 1, "prompt_length": 4, "storage": {"path": storage}, "seed": 5}
    by_hand = one_round.main(**values)
    result = promptfleet.run_federation({"method": "pfedmoap", "rounds": 2, "runtime.backend": "local", **values})
    assert state_sha256(by_hand["server"], by_hand["private"]) == result.state_sha256
    assert by_hand["accuracies"][1:] == pytest.approx([report.test_accuracy for report in result.rounds], abs=1e-6)
    first, *_, last = (f"{value:.3f}" for value in by_hand["accuracies"])
    assert capsys.readouterr().out.startswith(f"mean test accuracy before and after each round: {first} ")
    assert last != first


def test_it_is_short_and_uses_public_names_alone(root):
    source = (root / "examples" / "one_round.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 60
    imported = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert imported == {"dataclasses", "functools", "promptfleet.methods"}
