"""Differential privacy of uploads: what the noise is worth, that steps are clipped, and that nothing else changes."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

import promptfleet
from promptfleet.errors import ConfigError
from promptfleet.federation.conditions.cohort import sample_cohort
from promptfleet.federation.conditions.privacy import (
    MOST_COUNTED_ROUNDS,
    budget_for,
    check_noise_hides,
    most_uploads,
    planned_uploads,
    private_upload,
)
from promptfleet.federation.conditions.steps import step_norm, step_of
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.rounds import Federation
from promptfleet.methods.parts.prompts import encode_frozen
from promptfleet.methods.protocol import Spec, UpTo
from promptfleet.seeding import stream
from tests.fakes import tiny_client, tiny_world
from tests.tiny_federation import tiny_federation

PRIVACY = {"epsilon": 25.0, "delta": 0.05, "clip_norm": 0.02}


def delta_of(noise: float, epsilon: float, uploads: int) -> float:
    """Exactly what so many uploads with noise of that multiplier keep to (Balle, Wang, arXiv:1805.06530, theorem 8)."""
    mu = math.sqrt(uploads) / noise
    return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu))


def budget(cohorts, **privacy):
    return budget_for(tiny_world(privacy={**PRIVACY, **privacy}).config.privacy, most_uploads(cohorts))


@pytest.mark.parametrize(("epsilon", "delta"), [(25.0, 0.05), (1.0, 1e-5), (0.05, 1e-3), (200.0, 1e-10)])
def test_the_noise_gives_the_budget_back_and_never_less_privacy(epsilon, delta):
    cohorts = [[0, 1], [1], [1, 2], [0], [1, 2]]
    plan = budget(cohorts, epsilon=epsilon, delta=delta)
    assert 0.97 * epsilon <= plan.spent(cohorts) <= epsilon
    assert delta_of(plan.noise_multiplier, epsilon, uploads=4) <= delta  # client 1 sends four times
    assert delta_of(plan.noise_multiplier, 0.96 * epsilon, uploads=4) > delta
    halfway = plan.spent(cohorts[:3])
    assert halfway < plan.spent(cohorts)
    assert delta_of(plan.noise_multiplier, halfway, uploads=3) <= delta
    assert plan.spent([]) == 0
    assert plan.noise_std == plan.noise_multiplier * 2 * 0.02


def always(share):
    """The participation of a method in which it does not depend on the round."""
    return lambda config, round_index: share


def test_who_is_asked_most_often_counts():
    assert most_uploads([[0, 1], [1, 2], [1]]) == 3
    config = tiny_world(clients=10, rounds=6).config
    cohorts = [sample_cohort(config.seed, round_index, 10, 0.3) for round_index in range(1, 7)]
    assert planned_uploads(config, always(1.0)) == 6
    assert planned_uploads(config, always(0.3)) == most_uploads(cohorts)
    assert planned_uploads(config, lambda _, index: 1.0 if index < 6 else 0.3) == 6
    assert planned_uploads(config, lambda _, index: 0.3 if index == 3 else 0.1) == most_uploads(
        sample_cohort(config.seed, index, 10, 0.3 if index == 3 else 0.1) for index in range(1, 7)
    )
    assert 2 <= most_uploads(cohorts) < 6  # 18 places for 10 clients


def test_uploads_of_countless_rounds_are_counted_only_where_all_send():
    config = tiny_world(clients=10, rounds=10**12, faults={"over_selection": 0.5}).config
    assert planned_uploads(config, always(1.0)) == planned_uploads(config, always(0.7)) == 10**12
    with pytest.raises(ConfigError, match=rf"^privacy\.epsilon: .* at most {MOST_COUNTED_ROUNDS} rounds, got rounds="):
        planned_uploads(config, always(0.3))


def test_an_impossible_budget_is_refused_in_one_line(monkeypatch):
    import opacus.accountants.utils as opacus

    def fails(**_):
        raise ValueError("The privacy budget is too low.")

    monkeypatch.setattr(opacus, "get_noise_multiplier", fails)
    with pytest.raises(ConfigError) as caught:
        budget([[0]], epsilon=0.07)
    assert str(caught.value) == (
        "privacy: no noise was found for epsilon=0.07, delta=0.05 (The privacy budget is too low.)"
    )


@settings(max_examples=60, deadline=None)
@given(size=st.floats(0, 1e3), clip=st.floats(1e-3, 10))
def test_a_step_is_clipped_as_a_whole_and_a_short_one_is_left_as_it_is(size, clip):
    download = {"context": torch.zeros(4, 8), "gate": torch.zeros(3)}
    direction = {"context": torch.full((4, 8), 3.0), "gate": torch.full((3,), -2.0)}
    upload = {name: tensor * size / 18.33 for name, tensor in direction.items()}
    sent = private_upload(upload, download, clip, 1e-9, stream(0, "privacy"))
    before, after = (step_norm(step_of(one, download)) for one in (upload, sent))
    assert after <= clip + 1e-6 * (1 + clip)
    assert after == pytest.approx(min(before, clip), abs=1e-5, rel=1e-5)
    for name in upload:
        assert torch.allclose(sent[name], upload[name] * (after / max(before, 1e-30)), atol=1e-5)


def test_the_noise_is_that_of_the_client_and_round_in_every_number_sent():
    fed = tiny_federation()
    private = replace(tiny_federation(privacy=PRIVACY).world, upload_noise=0.5)
    client = tiny_client(1, fed.method, private)
    download = fed.download(1)
    plain = fed.clients[1].train(1, fed.privates[1], download)
    sent = client.train(1, fed.privates[1], download)
    step = step_of(plain.upload.tensors, download.tensors)["context"]
    noise = stream(0, "privacy", client=1, round_index=1).normal(0.0, 0.5, step.shape)
    clipped = step * 0.02 / max(0.02, float(step.norm()))
    context = sent.upload.tensors["context"]
    expected = download.tensors["context"].double() + clipped + torch.from_numpy(noise)
    assert torch.allclose(context.double(), expected, atol=1e-6)
    assert torch.allclose(sent.upload.attached["text"], encode_frozen(private, context), atol=1e-6)
    assert torch.equal(sent.private["context"], plain.private["context"])


def test_a_private_client_without_noise_is_refused():
    fed = tiny_federation(privacy=PRIVACY)
    with pytest.raises(ValueError, match="an upload needs noise to be private"):
        fed.clients[0].train(1, fed.privates[0], fed.download(0))


@pytest.mark.parametrize("tensor", [torch.tensor([True, False]), torch.tensor([3, 4])])
def test_counts_and_masks_cannot_be_made_private(tensor):
    upload = {"context": torch.ones(2), "other": tensor}
    with pytest.raises(ConfigError, match=r"^privacy\.epsilon: the method uploads other of type torch\.(bool|int64)"):
        private_upload(upload, {}, 0.1, 1.0, stream(0, "privacy"))


def run(config, prepared, rounds=None):
    federation = Federation(config, prepared, LocalFleet(prepared))
    while federation.rounds_done < (rounds or config.rounds):
        federation.run_round()
    return federation


@pytest.mark.slow
def test_rounds_tell_what_is_spent_also_after_a_restart(small_config, prepared):
    config = small_config(privacy=PRIVACY, rounds=3)
    result = run(config, prepared).result()
    spent = [report.epsilon_spent for report in result.rounds]
    assert spent == sorted(spent)
    assert 0 < spent[0] < spent[-1] == result.epsilon_spent <= 25
    first = run(config, prepared, rounds=1)
    again = Federation(config, prepared, LocalFleet(prepared))
    again.run_round()
    again.begin_anew()
    again.restore(first.snapshot())
    assert [again.run_round().epsilon_spent for _ in (2, 3)] == spent[1:]
    assert again.result().state_sha256 == result.state_sha256


@pytest.mark.slow
def test_without_privacy_its_other_settings_change_nothing_and_no_library_is_asked(small_config, prepared):
    plain = run(small_config(), prepared).result()
    other = run(small_config(privacy={"epsilon": "none", "clip_norm": 9.0, "delta": 0.1}), prepared).result()
    assert other.state_sha256 == plain.state_sha256
    assert (other.epsilon_spent, other.noise_multiplier) == (None, None)
    sent_nothing = run(small_config(method="coop", privacy=PRIVACY), prepared).result()
    assert sent_nothing.epsilon_spent is None


@pytest.mark.ray
@pytest.mark.slow
def test_attack_privacy_and_robust_average_give_the_same_bits_everywhere(ray_session, few_shot_config):
    values = {
        "privacy": PRIVACY,
        "adversary": {"fraction": 0.34, "kind": "noise"},
        "aggregation": "median",
        "pool": {"outlier_tolerance": 2.0},
        "participation": 1.0,
    }
    runtimes = [{"backend": "local"}, {"backend": "ray"}, {"backend": "ray", "clients_per_actor": 2}]
    results = [promptfleet.run_federation(few_shot_config(**values, runtime=runtime)) for runtime in runtimes]
    assert len({result.state_sha256 for result in results}) == 1
    assert len({result.epsilon_spent for result in results}) == 1
    assert results[0].clients == results[1].clients == results[2].clients
    assert [report.events for report in results[1].rounds] == [report.events for report in results[0].rounds]


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        (Spec((2,), torch.bool), r"of type torch\.bool"),
        (Spec((), torch.int64), r"of type torch\.int64"),
        (Spec((2,), trained=False), "that is not trained"),
        (Spec((UpTo(4), 2)), "whose size differs between clients"),
    ],
)
def test_a_method_that_noise_cannot_hide_is_refused_before_the_first_round(spec, what):
    promised = {"context": Spec((3, 16)), "other": spec}
    check_noise_hides(tiny_world().config, promised)
    private = tiny_world(privacy={"epsilon": 5.0, "delta": 0.05}).config
    check_noise_hides(private, {"context": Spec((3, 16))})
    with pytest.raises(ConfigError, match=rf"^privacy\.epsilon: the method uploads other {what}, and noise hides"):
        check_noise_hides(private, promised)
