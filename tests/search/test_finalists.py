"""Finalists: who is run again, who wins, and which differences are noise."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from scipy.stats import sem, t

from promptfleet.errors import ConfigError
from promptfleet.search.final_stage import final_ranking, final_space, final_stage
from promptfleet.search.finalists import rank_finalists
from promptfleet.search.folders import trial_folder
from promptfleet.search.space import Choice
from promptfleet.search.spec import parse_sweep
from promptfleet.search.study import SweepStudy
from tests.tracking.values import make_result

SEARCH = {
    "trials": 5,
    "federation": {"clients": 3, "rounds": 3, "experts": 2},
    "space": {"prompt_lr": {"float": [0.01, 0.1]}},
    "finalists": {"trials": 2, "seeds": [7, 8]},
}


def spec_of(**changes):
    return parse_sweep({**SEARCH, **changes}, source="a.yaml")


@pytest.fixture
def searched(study_folder):
    """A search of five trials, of which number 3 is the best, then number 1; number 4 was stopped early."""
    spec = spec_of()
    study = SweepStudy(study_folder, spec.space, spec.settings, 3)
    for value in (0.2, 0.7, 0.5, 0.8):
        study.complete(study.next_proposal().number, value)
    number = study.next_proposal().number
    study.report(number, 1, 0.9)
    study.prune(number)
    return spec, study, study_folder


def test_the_best_complete_trials_are_run_again_with_each_seed(searched):
    spec, study, folder = searched
    space = final_space(spec, study)
    assert space == {"trial": Choice((3, 1)), "seed": Choice((7, 8))}
    stage = final_stage(spec, folder, study, space, SimpleNamespace(id="parent"))
    proposals = [stage.study.next_proposal() for _ in range(4)]
    assert stage.study.next_proposal() is None
    configs = [stage.config(proposal.params) for proposal in proposals]
    lr = [trial.params["prompt_lr"] for trial in study.trials()]
    assert [(config.prompt_lr, config.seed) for config in configs] == [(lr[3], 7), (lr[3], 8), (lr[1], 7), (lr[1], 8)]
    assert not any(stage.study.should_stop(proposal.number, 1) for proposal in proposals)


def test_finalists_are_ranked_by_the_objective_of_the_search(searched):
    _, study, folder = searched
    spec = spec_of(objective="val/global")
    stage = final_stage(spec, folder, study, final_space(spec, study), SimpleNamespace(id="parent"))
    assert stage.study.objective.name == "val/global"
    while proposal := stage.study.next_proposal():
        place = trial_folder(stage.folder, proposal.number)
        place.mkdir(parents=True)
        result = make_result(stage.config(proposal.params))
        everybody = [0.2, 0.3, 0.4] if proposal.params["trial"] == 3 else [0.6, 0.7, 0.8]
        last = replace(result.rounds[-1], client_accuracy={"val/global": everybody})
        (place / "result.json").write_text(replace(result, rounds=[*result.rounds[:-1], last]).to_json())
        stage.study.complete(proposal.number, 0.5)
    assert [(one.number, one.val_accuracy) for one in final_ranking(stage)] == [
        (1, pytest.approx(0.7)),
        (3, pytest.approx(0.3)),
    ]


def test_one_number_of_the_server_is_one_pair_per_seed(searched):
    _, study, folder = searched
    finalists = {"trials": 2, "seeds": [7, 8, 9, 10]}
    spec = spec_of(objective="val/server", finalists=finalists, federation={"method": "promptfl", "clients": 3})
    stage = final_stage(spec, folder, study, final_space(spec, study), SimpleNamespace(id="parent"))
    ahead = {7: 0.1, 8: 0.05, 9: -0.01, 10: 0.02}  # of trial 3
    while proposal := stage.study.next_proposal():
        result = make_result(stage.config(proposal.params))
        value = 0.6 + (ahead[proposal.params["seed"]] if proposal.params["trial"] == 3 else 0.0)
        accuracy = {"val/server": replace(result.rounds[-1].accuracy["val/local"], mean=value)}
        place = trial_folder(stage.folder, proposal.number)
        place.mkdir(parents=True)
        last = replace(result.rounds[-1], accuracy=accuracy)
        (place / "result.json").write_text(replace(result, rounds=[*result.rounds[:-1], last]).to_json())
        stage.study.complete(proposal.number, value)
    winner, second = final_ranking(stage)
    assert (winner.number, winner.val_accuracy) == (3, pytest.approx(0.64))
    assert second.gap == pytest.approx(0.04)
    assert second.p == 2 * 2 / 2**4, "of four differences; of twelve equal by threes it is 0.005"


def test_results_are_ranked_by_their_validation_mean(searched):
    spec, study, folder = searched
    stage = final_stage(spec, folder, study, final_space(spec, study), SimpleNamespace(id="parent"))
    assert final_ranking(stage) == []
    while proposal := stage.study.next_proposal():
        place = trial_folder(stage.folder, proposal.number)
        place.mkdir(parents=True)
        result = make_result(stage.config(proposal.params), rounds=3 if proposal.params["trial"] == 1 else 2)
        (place / "result.json").write_text(result.to_json())
        stage.study.report(proposal.number, 3, 0.5)
        stage.study.complete(proposal.number, 0.5)
    winner, second = final_ranking(stage)
    assert (winner.number, second.number) == (1, 3)
    assert (winner.val_accuracy, second.val_accuracy) == pytest.approx((0.6, 0.4))


def test_the_winner_has_an_interval_and_the_others_a_test():
    base = [0.5, 0.6, 0.7, 0.4, 0.55, 0.65]
    shifts = [0.018, -0.02] * 3
    clients = {
        2: {seed: [value + 0.01 * seed - 0.1 for value in base] for seed in (1, 2, 3)},
        5: {seed: [value + 0.01 * seed for value in base] for seed in (1, 2, 3)},
        9: {seed: [one + 0.01 * seed + shift for one, shift in zip(base, shifts, strict=True)] for seed in (1, 2, 3)},
    }
    winner, noise, worse = rank_finalists(clients, {2: [0.4], 5: [0.5, 0.7], 9: [0.6]})
    assert [one.number for one in (winner, noise, worse)] == [5, 9, 2]
    assert (winner.p, winner.gap, winner.is_noise, winner.test_accuracy) == (None, 0.0, False, 0.6)
    means = [sum(values) / len(values) for values in clients[5].values()]
    assert winner.val_accuracy == pytest.approx(sum(means) / 3)
    assert winner.interval == pytest.approx(sem(means) * t.ppf(0.975, 2))
    assert (noise.is_noise, worse.is_noise) == (True, False)
    assert worse.gap == pytest.approx(0.1)
    assert worse.p < 0.001 < 0.05 < noise.p


def test_a_client_without_a_value_is_in_no_pair():
    nan = float("nan")
    clients = {1: {5: [0.5, nan, 0.6], 6: [0.5, 0.6, 0.7]}, 2: {5: [0.5, 0.9, 0.6], 6: [0.5, 0.6, nan]}}
    winner, other = rank_finalists(clients, {1: [0.5], 2: [0.5]})
    assert (winner.number, other.number, other.p) == (2, 1, 1.0)
    assert winner.val_accuracy == pytest.approx((2.0 / 3 + 0.55) / 2)


def test_of_equal_finalists_the_better_of_the_search_wins():
    same = {1: [0.5, 0.5], 2: [0.5, 0.5]}
    first, second = rank_finalists({8: same, 3: same}, {8: [0.5], 3: [0.5]})
    assert (first.number, second.number, second.p, second.is_noise) == (8, 3, 1.0, True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"finalists": {"trials": 2}}, "finalists.seeds: got [], should be at least two different seeds"),
        ({"finalists": {"trials": 2, "seeds": [5, 5]}}, "got [5, 5], should be at least two different seeds"),
        ({"finalists": {"seeds": [5, 6]}}, "a.yaml: finalists.trials: is missing, should be the number of finalists"),
        ({"finalists": {"trials": 2, "seeds": [0, 6]}}, "finalists.seeds: the trials have seed 0 already; give fresh"),
        ({"finalists": {"trials": 2, "seeds": [2, 6]}, "seeds_per_trial": 3}, "the trials have seed 2 already"),
        ({"finalists": {"trials": 2, "seeds": [-1, 6]}}, "finalists.seeds[0]: got -1, should be greater than or equal"),
        ({"seeds_per_trial": 0}, "a.yaml: seeds_per_trial: got 0, should be greater than or equal to 1"),
        (
            {"seeds_per_trial": 2, "finalists": {}, "space": {"seed": {"int": [0, 3]}}},
            "a.yaml: seeds_per_trial: sets seeds itself, so 'seed' cannot be searched",
        ),
        ({"space": {"seed": {"int": [0, 3]}}}, "a.yaml: finalists: sets seeds itself, so 'seed' cannot be searched"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(values, message):
    with pytest.raises(ConfigError) as caught:
        spec_of(**values)
    assert message in str(caught.value)
