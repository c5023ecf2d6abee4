import pytest
import torch

from promptfleet.errors import ConfigError
from promptfleet.methods.dpfpl import clipped, factored
from promptfleet.methods.parts.prompts import encode_frozen, similarity_logits
from tests.fakes import tiny_examples
from tests.tiny_federation import ALL, equal, tiny_federation

COHORTS = [ALL, [0, 2]]


def own_part(private):
    return private["left"] @ private["right"] + private["rest"]


def test_with_rank_0_and_no_noise_it_is_promptfl_bit_for_bit():
    fed, promptfl = tiny_federation("dpfpl", private_rank=0), tiny_federation("promptfl")
    for ours, theirs in zip(fed.run(COHORTS).contexts, promptfl.run(COHORTS).contexts, strict=True):
        assert torch.equal(ours, theirs)
    for i in ALL:
        assert not own_part(fed.privates[i]).any()
        assert torch.equal(fed.logits(i), promptfl.logits(i))


def test_factors_and_rest_are_the_whole_and_power_iterations_find_the_largest_directions():
    own = torch.randn(6, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    right = torch.randn(2, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    left, right, rest = factored(own, right)
    assert torch.allclose(left @ right + rest, own, atol=1e-12)
    assert torch.allclose(left.T @ left, torch.eye(2, dtype=torch.float64), atol=1e-12)
    for _ in range(200):
        left, right, rest = factored(own, right)
    values = torch.linalg.svdvals(own)
    assert torch.allclose(torch.linalg.matrix_norm(rest), values[2:].norm(), atol=1e-6)


def test_clipping_shortens_what_is_too_long_and_nothing_else():
    long, short = torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4])
    assert torch.allclose(clipped(long, 1.0), torch.tensor([0.6, 0.8]))
    assert torch.equal(clipped(short, 1.0), short)
    assert not clipped(torch.zeros(2), 1.0).any()


def test_a_local_update_moves_the_private_part_within_its_rank_and_the_rest_is_what_the_factors_leave():
    fed = tiny_federation("dpfpl", private_rank=1, local_epochs=1, batch_size=100)
    start = dict(fed.privates)
    assert not torch.equal(own_part(start[0]), own_part(start[1]))
    fed.run([ALL])
    for i in ALL:
        step = own_part(fed.privates[i]) - own_part(start[i])
        assert step.norm() > 1e-5
        assert torch.linalg.svdvals(step)[2] < 1e-6  # the product of one pair of factors minus another
        assert fed.privates[i]["rest"].norm() > 1e-2
    assert fed.privates[0]["left"].shape == (3, 1)


def test_a_clients_step_is_clipped_before_the_server_adds_its_noise():
    fed = tiny_federation("dpfpl", global_noise=1e-6, step_clip=0.01)
    start, download = fed.server.state["context"], fed.download(0)
    sent = fed.clients[0].train(1, fed.privates[0], download).upload.tensors["context"]
    assert (sent - start).norm() == pytest.approx(0.01, rel=1e-3)


def test_the_noise_of_the_server_has_the_deviation_of_its_definition():
    quiet, loud = (
        tiny_federation("dpfpl", prompt_length=40, private_rank=0, local_epochs=1, global_noise=noise).run([ALL])
        for noise in (1e-9, 2.0)
    )
    noise = loud.server.state["context"] - quiet.server.state["context"]
    assert noise.std() == pytest.approx(2.0 * 12 / (6 + 8 + 10 + 12), rel=0.1)  # 640 numbers; client 3 has 12 examples


def test_prediction_is_with_the_present_global_prompt_and_the_clients_own_part_which_stays():
    fed = tiny_federation("dpfpl")
    start = dict(fed.privates)
    fed.run([[0, 1], [0]])
    assert equal(fed.privates[2], start[2])
    features = tiny_examples(fed.world, 8, seed=77).images.features
    for i in ALL:
        text = encode_frozen(fed.world, fed.server.state["context"] + own_part(fed.privates[i]))
        assert torch.allclose(fed.logits(i), similarity_logits(fed.world, features, text), atol=1e-5)
    upload = fed.clients[0].train(3, fed.privates[0], fed.download(0)).upload
    assert upload.num_bytes == fed.download(0).num_bytes == 4 * 3 * 16


def test_a_rank_beyond_the_prompts_is_refused_in_one_line():
    fed = tiny_federation("dpfpl", private_rank=4)
    with pytest.raises(ConfigError, match=r"^private_rank=4 exceeds .* at most 3 for 3 tokens of width 16$"):
        fed.method.check(fed.world)


NOISY = {"local_noise": 0.1, "gradient_clip": 0.5, "global_noise": 0.1, "step_clip": 0.5}


@pytest.fixture(scope="module")
def usual_logits():
    return tiny_federation("dpfpl", **NOISY).run([[0]]).logits(0)


@pytest.mark.parametrize("option", [*({key: value / 5} for key, value in NOISY.items()), {"private_rank": 1}], ids=str)
def test_every_option_changes_the_result(usual_logits, option):
    logits = tiny_federation("dpfpl", **{**NOISY, **option}).run([[0]]).logits(0)
    assert not torch.allclose(logits, usual_logits, atol=1e-5)
