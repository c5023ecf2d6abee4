"""Importances of a sweep's keys, with any number of choices and trials."""

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from sklearn.ensemble import RandomForestRegressor

from promptfleet.search import importances
from promptfleet.search.importances import hyperparameter_importances
from promptfleet.search.samplers import distribution
from promptfleet.search.space import Choice, FloatRange, IntRange

WORDS = tuple(f"word-{number}" for number in range(300))
SPACE = {"word": Choice(WORDS), "other": Choice(WORDS[:50]), "lr": FloatRange(0.0, 1.0), "experts": IntRange(1, 9)}


def trials(count: int, value, state=TrialState.COMPLETE, space=SPACE) -> list[FrozenTrial]:
    rng = np.random.default_rng(0)
    distributions = {key: distribution(parameter) for key, parameter in space.items()}
    drawn = []
    for _ in range(count):
        params = {"word": WORDS[rng.integers(300)], "other": WORDS[rng.integers(50)]}
        params |= {"lr": float(rng.random()), "experts": int(rng.integers(1, 10))}
        drawn.append(create_trial(state=state, params=params, distributions=distributions, value=value(params)))
    return drawn


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("word", lambda params: float(params["word"] in WORDS[100:150])),
        ("other", lambda params: float(WORDS.index(params["other"]) % 3)),  # without an order
        ("lr", lambda params: -abs(params["lr"] - 0.5)),
        ("experts", lambda params: float(params["experts"] == 3)),
    ],
)
def test_what_decides_has_most_of_the_importance_also_among_hundreds_of_choices(key, value):
    found = hyperparameter_importances(trials(400, value), SPACE, seed=0)
    shares = found.shares
    assert (list(shares), list(found.spreads), found.trials) == (list(SPACE), list(SPACE), 400)
    assert found.spreads[key] < 0.2
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[key] > 0.8


def test_trials_have_to_be_complete_enough_and_to_differ():
    least = len(SPACE) + 2
    complete = trials(least, lambda params: params["lr"])
    few = hyperparameter_importances(complete, SPACE, seed=0)
    many = hyperparameter_importances(trials(400, lambda params: params["lr"]), SPACE, seed=0)
    assert few.trials == least
    assert few.spreads["lr"] > 2 * many.spreads["lr"], "few trials are uncertain"
    assert hyperparameter_importances(complete[1:], SPACE, seed=0) is None
    others = trials(9, lambda params: params["lr"], state=TrialState.PRUNED)
    assert hyperparameter_importances([*complete[1:], *others], SPACE, seed=0) is None
    tied = trials(9, lambda _: 0.5)
    assert hyperparameter_importances([*complete[:2], *tied], SPACE, seed=0) is None
    assert hyperparameter_importances([*complete[:3], *tied], SPACE, seed=0) is not None


def test_the_forest_grows_neither_with_combinations_of_choices_nor_with_trials(monkeypatch):
    monkeypatch.setattr(importances, "MOST_TRIALS", 50)
    seen, fit = [], RandomForestRegressor.fit

    def noted(forest, points, values):
        seen.append((points.shape, values))
        return fit(forest, points, values)

    monkeypatch.setattr(RandomForestRegressor, "fit", noted)
    many = trials(120, lambda params: params["lr"])
    hyperparameter_importances(many, SPACE, seed=0)
    ((shape, values),) = seen
    assert shape == (50, 300 + 50 + 2), "a column for each word, one for each number"
    assert (values[0], values[-1]) == (many[0].value, many[-1].value)
    assert len(set(values)) == 50


@pytest.mark.parametrize("values", [(8, 2, 4), (True, False), (1, 2.5, "1", "x"), (0.5, None)])
def test_choices_of_all_kinds_are_taken(values):
    space = {"choice": Choice(values)}
    distributions = {"choice": distribution(space["choice"])}
    done = [
        create_trial(params={"choice": value}, distributions=distributions, value=float(value == values[0]))
        for value in values * 3
    ]
    assert hyperparameter_importances(done, space, seed=0).shares == {"choice": pytest.approx(1.0)}
