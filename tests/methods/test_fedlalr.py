from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from promptfleet.errors import ConfigError
from promptfleet.methods.fedlalr import LocalAMSGrad
from promptfleet.methods.parts.optimizers import SGD, AMSGrad
from promptfleet.methods.parts.prompts import encode_contexts
from promptfleet.methods.parts.side_by_side import run_alone
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import Spec, UpTo
from tests.fakes import tiny_client, tiny_task
from tests.tiny_federation import ALL, equal, tiny_federation

COHORTS = [ALL, [0, 2]]
IN_ORDER = {"batch_size": 4, "shuffle": False}
MEAN, LARGEST = "moments.mean.context", "moments.largest.context"
COMBINED = {"fedpgp": "FedLALRonFedPGP", "pfedmoap": "FedLALRonPFedMoAP"}


def combined(name, **config):
    return tiny_federation(f"promptfleet.methods.fedlalr:{COMBINED[name]}", **config)


def test_with_frozen_squares_it_is_promptfl_by_sgd():
    """b1 = 0 and b2 = 1 keep w at c^2, so the rate is alpha / c."""
    common = {"momentum": 0.0, "weight_decay": 0.0}
    settings = {"beta1": 0.0, "beta2": 1.0, "eps": 0.25, "prompt_lr": 0.0125, "weighting": "examples"}
    fed = tiny_federation("fedlalr", **settings, **common).run(COHORTS)
    promptfl = tiny_federation("promptfl", prompt_lr=0.05, **common).run(COHORTS)
    for ours, theirs in zip(fed.contexts, promptfl.contexts, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert fed.server.state[LARGEST].eq(0.25**2).all()


def test_the_first_step_has_the_published_form():
    fed = tiny_federation("fedlalr", local_epochs=1, batch_size=100, shuffle=False, weight_decay=0.5)
    config, clip, examples, start = fed.world.config, fed.world.clip, fed.examples(1), fed.server.state["context"]
    sent = fed.clients[1].train(1, fed.privates[1], fed.download(1)).upload.tensors
    leaf = start.clone().requires_grad_()
    text = encode_contexts(fed.world, leaf[None])[0]
    F.cross_entropy(clip.logit_scale * examples.images.features @ text.T, examples.labels).backward()
    g, b1, b2, eps = leaf.grad, config.beta1, config.beta2, config.eps
    root = (b2 * eps**2 + (1 - b2) * g * g).sqrt().clamp(min=eps)
    step = config.prompt_lr * (1 - b1) * g / root
    assert torch.allclose(start - sent["context"], step, rtol=1e-4, atol=1e-8)
    assert torch.allclose(sent[MEAN], (1 - b1) * g, rtol=1e-4, atol=1e-9)
    assert step.abs().max() == pytest.approx(config.prompt_lr * (1 - b1) / (1 - b2) ** 0.5, rel=1e-3)


def test_within_a_round_the_largest_squares_never_fall_and_never_below_their_start():
    fed = tiny_federation("fedlalr", eps=1e-3)
    for cohort in COHORTS:
        fed.run([cohort])
        given = fed.server.state[LARGEST]
        assert (given >= 1e-3**2).all()
        for i in ALL:
            sent = fed.clients[i].train(len(fed.history) + 1, fed.privates[i], fed.download(i)).upload.tensors[LARGEST]
            assert (sent >= given).all()
            assert (sent > given).any()


def test_equal_clients_are_one_client_whose_squares_start_again_at_each_round():
    fed = tiny_federation("fedlalr", clients=2, rounds=2, **IN_ORDER)
    fed.clients[1] = tiny_client(1, fed.method, fed.world, train=fed.examples(0))
    start = fed.server.state["context"]
    fed.run([[0, 1], [0, 1]])

    context, state = start.clone().requires_grad_(), {}
    config, clip, examples = fed.world.config, fed.world.clip, fed.examples(0)
    for _ in range(2):
        state.pop("square.context", None)
        betas = (config.beta1, config.beta2)
        optimizer = AMSGrad({"context": context}, lr=config.prompt_lr, betas=betas, eps=config.eps, state=state)
        for _ in range(config.local_epochs):
            for chosen in torch.arange(len(examples)).split(config.batch_size):
                batch = examples[chosen]
                text = encode_contexts(fed.world, context[None])[0]
                F.cross_entropy(clip.logit_scale * batch.images.features @ text.T, batch.labels).backward()
                optimizer.step()
    assert torch.allclose(fed.server.state["context"], context.detach(), atol=1e-5)
    assert torch.allclose(fed.server.state[MEAN], state["mean.context"], atol=1e-5)
    assert torch.allclose(fed.server.state[LARGEST], state["largest.context"], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(("send_mean", "tensors"), [(True, 3), (False, 2)])
def test_the_moments_travel_with_the_prompt_and_clients_keep_nothing(send_mean, tensors):
    fed = tiny_federation("fedlalr", send_mean=send_mean).run(COHORTS)
    upload = fed.clients[0].train(3, fed.privates[0], fed.download(0)).upload
    assert upload.num_bytes == fed.download(0).num_bytes == tensors * 4 * 3 * 16
    assert (MEAN in fed.server.state) is send_mean
    assert not any(fed.privates.values())
    assert fed.method.trained_parameters(fed.world) == 3 * 16


@pytest.mark.parametrize("weighting", ["equal", "examples"])
@pytest.mark.parametrize("largest", ["mean", "max"])
def test_all_three_are_averaged_by_the_same_weights(weighting, largest):
    fed = tiny_federation("fedlalr", weighting=weighting, largest_average=largest)
    sent = [fed.clients[i].train(1, fed.privates[i], fed.download(i)).upload.tensors for i in (0, 2)]
    fed.run([[0, 2]])
    weights = {"equal": (0.5, 0.5), "examples": (6 / 16, 10 / 16)}[weighting]
    for name in ("context", MEAN, LARGEST):
        wanted = weights[0] * sent[0][name] + weights[1] * sent[1][name]
        if name == LARGEST and largest == "max":
            wanted = torch.maximum(sent[0][name], sent[1][name])
        assert torch.allclose(fed.server.state[name], wanted, rtol=1e-5, atol=1e-9), name


def test_the_rate_that_a_client_reports_is_that_of_its_moments():
    fed = tiny_federation("fedlalr").run([ALL])
    trained = fed.clients[1].train(2, fed.privates[1], fed.download(1))
    wanted = (fed.world.config.prompt_lr / trained.upload.tensors[LARGEST].sqrt()).mean().item()
    assert trained.report.metrics["mean_rate"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    "option", [{"beta1": 0.5}, {"beta2": 0.9}, {"eps": 0.1}, {"send_mean": False}, {"largest_average": "max"}], ids=str
)
def test_an_option_changes_the_result(option):
    contexts = [tiny_federation("fedlalr", **config).run([ALL, ALL]).contexts[-1] for config in ({}, option)]
    assert not torch.allclose(*contexts, atol=1e-5)


@pytest.mark.parametrize("name", COMBINED)
def test_over_another_method_its_prompt_and_moments_travel_and_its_private_part_stays(name):
    fed, plain = combined(name).run(COHORTS), tiny_federation(name).run(COHORTS)
    uploads = fed.method.uploads(fed.world)
    assert uploads.keys() == {"context", MEAN, LARGEST}
    assert fed.server.state.keys() == plain.server.state.keys() | {MEAN, LARGEST}
    assert all(fed.privates[i].keys() == plain.privates[i].keys() for i in ALL)
    assert not equal(fed.privates[0], plain.privates[0])
    assert fed.method.trained_parameters(fed.world) == plain.method.trained_parameters(plain.world)
    slower = combined(name, beta1=0.5).run(COHORTS)
    assert not torch.equal(slower.server.state["context"], fed.server.state["context"])


def test_over_fedpgp_frozen_squares_are_sgd():
    common = {"momentum": 0.0, "weight_decay": 0.0}
    settings = {"beta1": 0.0, "beta2": 1.0, "eps": 0.25, "prompt_lr": 0.0125, "weighting": "examples"}
    fed = combined("fedpgp", **settings, **common).run(COHORTS)
    fedpgp = tiny_federation("fedpgp", prompt_lr=0.05, **common).run(COHORTS)
    assert torch.allclose(fed.server.state["context"], fedpgp.server.state["context"], atol=1e-6)
    for i in ALL:
        assert torch.allclose(fed.logits(i), fedpgp.logits(i), atol=1e-4)


@pytest.mark.parametrize("sharing", ["kept", "averaged"])
def test_over_pfedmoap_a_private_gate_keeps_its_optimizer_and_an_averaged_one_is_stepped_by_amsgrad(sharing):
    fed = combined("pfedmoap", gate_sharing=sharing)
    gate = {"gate.query.weight": torch.zeros(2, requires_grad=True)}
    optimizer = fed.method.optimizer(tiny_task(fed.world, fed.privates[0], fed.download(0)), gate, 0.1)
    assert isinstance(optimizer, AMSGrad if sharing == "averaged" else SGD)
    assert ("moments.mean.gate.query.weight" in fed.run([ALL]).server.state) is (sharing == "averaged")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "coop",
            "LocalAMSGrad averages the moments of what clients train and upload, and the method below it uploads",
        ),
        ("linear_probe", "uploads nothing trained; put it over one that does, such as PromptFL"),
    ],
)
def test_a_method_that_it_cannot_wrap_is_refused(name, message):
    fed = tiny_federation(f"tests.methods.plug_ins:LocalAMSGrad_{name}")
    with pytest.raises(ConfigError, match=message):
        fed.method.check(fed.world)


class Rows(PromptFL):
    """PromptFL that says that its uploads differ in size."""

    def uploads(self, world):
        return {"context": Spec((UpTo(3), 16))}


class LocalAMSGradOnRows(LocalAMSGrad, Rows):
    pass


def test_uploads_of_several_sizes_have_no_moments():
    world = tiny_federation("fedlalr").world
    with pytest.raises(ConfigError, match=r"the shape of context is \(up to 3, 16\); put it over another method"):
        LocalAMSGradOnRows().check(world)


def test_before_it_predicts_a_client_tunes_by_amsgrad_too():
    name = "tests.methods.plug_ins:LocalAMSGrad_promptfl_ft"
    tuned = {beta: tiny_federation(name, beta1=beta).run([ALL]) for beta in (0.9, 0.5)}
    fed = tuned[0.9]
    task = tiny_task(fed.world, fed.privates[0], fed.download(0), fed.examples(0))
    personal = run_alone(fed.world, fed.method.personalize(task), "personalize")
    assert personal.keys() == {"context", "text"}
    other = replace(task, download=replace(task.download, tensors={**task.download.tensors, MEAN: torch.ones(3, 16)}))
    again = run_alone(fed.world, fed.method.personalize(other), "personalize")
    assert not torch.allclose(personal["context"], again["context"], atol=1e-4)  # it continues from the moments
