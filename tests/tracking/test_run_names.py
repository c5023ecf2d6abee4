"""Names of runs."""

import pytest

from promptfleet.tracking.run_names import changed_values, federation_name, trial_name
from tests.tracking.values import make_config


@pytest.mark.parametrize(
    ("number", "params", "name"),
    [
        (7, {"experts": 4, "gating_temperature": 0.05}, "trial 07  K=4 tau=0.05"),
        (123, {"shuffle": True, "prompt_length": 8, "experts": 3}, "trial 123  K=3 L=8 shuffle=true"),
        (1, {"gate_lr": 0.01, "experts": 3}, "trial 01  K=3 gate_lr=0.01"),
        (1, {"gate_lr": 0.01, "optimizer.prompt_lr": 0.1}, "trial 01  gate_lr=0.01 prompt_lr=0.1"),
        (0, {"partition.alpha": 0.123456}, "trial 00  alpha=0.123"),
        (0, {"a.width": 1, "b.width": 2}, "trial 00  a.width=1 b.width=2"),
        (0, {"pool.outlier_tolerance": None, "method": "null"}, "trial 00  outlier_tolerance=null method='null'"),
        (0, {}, "trial 00"),
    ],
)
def test_names_of_trials(number, params, name):
    assert trial_name(number, params) == name


def test_a_long_name_is_cut():
    name = trial_name(0, {f"hyperparameter_{number}": number for number in range(40)})
    assert len(name) == 250
    assert name.endswith("…")


def test_a_federation_is_named_by_what_is_not_as_usual():
    config = make_config(partition={"alpha": 0.1234567}, privacy={"epsilon": 3}, storage={"path": "elsewhere"})
    assert federation_name(config) == "pfedmoap digits seed 0  K=2 clients=3 rounds=3 epsilon=3 alpha=0.123"
    assert changed_values(config) == {
        "clients": 3,
        "rounds": 3,
        "experts": 2,
        "partition.alpha": 0.1234567,
        "privacy.epsilon": 3.0,
    }
    assert federation_name(type(config)(seed=4)) == "pfedmoap digits seed 4"
