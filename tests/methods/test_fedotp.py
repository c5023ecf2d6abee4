import numpy as np
import pytest
import torch
import torch.nn.functional as F

from promptfleet.clip.prompt_encoder import encode_prompts
from promptfleet.methods import fedotp
from promptfleet.methods.fedotp import FedOTP, FedOTPConfig
from promptfleet.methods.parts import optimal_transport
from promptfleet.methods.parts.prompts import encode_frozen, similarity_logits
from promptfleet.methods.protocol import Images, Message
from tests.fakes import tiny_examples, tiny_task, tiny_world
from tests.tiny_federation import ALL, equal, tiny_federation

ONE_STEP = {"local_epochs": 1, "batch_size": 100, "shuffle": False, "momentum": 0.0, "weight_decay": 0.01}


def textbook_plan(similarity, mass, epsilon):
    """``[prompts, patches]`` of one image and class, by the published iterations in double precision."""
    prompts, patches = similarity.shape
    kernel = np.exp(-(1 - similarity.astype(np.float64)) / epsilon)
    v = np.ones(prompts)
    for _ in range(300):
        u = np.minimum(1 / patches / (v @ kernel), 1)
        v = mass / prompts / (kernel @ u)
    return v[:, None] * kernel * u


def textbook_logits(world, patches, text):
    config = world.config
    rows = []
    for image in patches:
        for label in range(text.shape[1]):
            similarity = text[:, label] @ image.T
            plan = textbook_plan(similarity.detach().numpy(), config.transport_mass, config.transport_epsilon)
            rows.append((torch.from_numpy(plan).float() * similarity).sum())
    return world.clip.logit_scale * torch.stack(rows).view(len(patches), -1)


def test_one_step_follows_the_gradient_of_the_formula_with_constant_plans():
    fed = tiny_federation("fedotp", transport_mass=0.7, transport_epsilon=0.2, **ONE_STEP)
    config, clip, examples, start = fed.world.config, fed.world.clip, fed.examples(1), fed.privates[1]
    trained = fed.clients[1].train(1, start, fed.download(1))

    shared, own = (t.clone().requires_grad_() for t in (fed.server.state["context"], start["context"]))
    text = torch.stack([encode_prompts(clip.tower, clip.classes, p[None])[0] for p in (shared, own)])
    loss = F.cross_entropy(textbook_logits(fed.world, examples.images.patches, text), examples.labels)
    loss.backward()

    stepped = trained.upload.tensors["context"], trained.private["context"]
    for leaf, after in zip((shared, own), stepped, strict=True):
        assert (after - leaf).norm() > 1e-4
        assert torch.allclose(after, leaf - config.prompt_lr * (leaf.grad + 0.01 * leaf), atol=1e-6)
    assert trained.report.metrics["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert trained.report.metrics["uniform_plans"] == 0


def test_prediction_is_with_the_aggregated_global_and_the_own_prompt():
    fed = tiny_federation("fedotp").run([[0, 1], [1]])
    patches = tiny_examples(fed.world, 8, seed=77).images.patches
    shared = encode_frozen(fed.world, fed.server.state["context"])
    logits = [fed.logits(i) for i in ALL]
    for i in ALL:
        text = torch.stack([shared, encode_frozen(fed.world, fed.privates[i]["context"])])
        assert torch.allclose(logits[i], textbook_logits(fed.world, patches, text), atol=1e-3)
        assert all(not torch.allclose(logits[i], logits[j], atol=1e-4) for j in ALL if j != i)


def equal_prompts_and_patches(**config):
    """Logits where global and local prompt are the same, and so are all patches and the global feature."""
    world = tiny_world(config_class=FedOTPConfig, **config)
    features = tiny_examples(world, 6).images.features
    text = encode_frozen(world, torch.full((3, 16), 0.1))
    private = {"context": torch.zeros(3, 16), "text": text, "participations": torch.tensor(1)}
    images = Images(features, features.unsqueeze(1).repeat(1, 5, 1))
    logits = FedOTP().predict(tiny_task(world, private, Message({}, {"text": text})), images)
    return logits, similarity_logits(world, features, text)


@pytest.mark.parametrize("mass", [0.5, 0.8, 1.0])
def test_with_equal_prompts_and_patches_it_is_promptfl_times_the_mass(mass):
    logits, promptfl = equal_prompts_and_patches(transport_mass=mass)
    assert torch.allclose(logits, mass * promptfl, atol=1e-5)


def test_a_local_prompt_stays_as_it_is_while_its_client_is_not_selected():
    fed = tiny_federation("fedotp")
    start = dict(fed.privates)
    assert not torch.equal(start[0]["context"], start[1]["context"])
    fed.run([[0, 1]])
    after_one = dict(fed.privates)
    fed.run([[0], [0, 3]])
    assert equal(fed.privates[2], start[2])
    assert equal(fed.privates[1], after_one[1])
    assert not torch.equal(fed.privates[0]["context"], after_one[0]["context"])
    assert [int(fed.privates[i]["participations"]) for i in ALL] == [3, 1, 0, 1]
    for i in (0, 1, 3):
        assert torch.allclose(fed.privates[i]["text"], encode_frozen(fed.world, fed.privates[i]["context"]), atol=1e-6)


def test_a_local_prompt_goes_on_from_itself_and_the_global_one_from_the_server():
    fed = tiny_federation("fedotp")
    private, download = fed.privates[1], fed.download(1)
    other = {**private, "context": private["context"] + 0.05}
    one, two = (fed.clients[1].train(1, start, download) for start in (private, other))
    assert not torch.equal(one.private["context"], two.private["context"])
    assert not torch.equal(one.upload.tensors["context"], two.upload.tensors["context"])
    still = tiny_federation("fedotp", prompt_lr=1e-9).run([[1]])
    assert torch.allclose(still.server.state["context"], fed.server.state["context"], atol=1e-6)
    assert torch.allclose(still.privates[1]["context"], private["context"], atol=1e-6)


def test_the_global_prompt_is_the_same_for_all_and_the_local_one_stays_at_home():
    fed = tiny_federation("fedotp").run([[0]])
    downloads = fed.server.select(2, ALL)
    assert all(torch.equal(downloads[i].tensors["context"], downloads[0].tensors["context"]) for i in ALL)
    upload = fed.clients[0].train(2, fed.privates[0], downloads[0]).upload
    assert upload.num_bytes == downloads[0].num_bytes == 4 * 3 * 16  # one prompt of 3 tokens of width 16
    assert upload.attached == {}


def test_who_never_trained_predicts_with_its_own_initial_prompt_or_the_global_one_twice():
    own, twice = (tiny_federation("fedotp", cold_start=which).run([[0]]) for which in ("own", "global"))
    patches = tiny_examples(own.world, 8, seed=77).images.patches
    shared = encode_frozen(own.world, own.server.state["context"])
    initial = encode_frozen(own.world, own.privates[3]["context"])
    for fed, second in ((own, initial), (twice, shared)):
        wanted = textbook_logits(fed.world, patches, torch.stack([shared, second]))
        assert torch.allclose(fed.logits(3), wanted, atol=1e-3)
    assert not torch.allclose(own.logits(3), twice.logits(3), atol=1e-2)
    assert torch.equal(own.logits(0), twice.logits(0))


@pytest.mark.parametrize(
    ("module", "name", "size"),
    [(optimal_transport, "_CHUNK", 8 * 5 * 2 * 3), (fedotp, "_IMAGES", 3)],
    ids=["three of four classes", "three of eight images"],
)
def test_piece_by_piece_gives_the_same(monkeypatch, module, name, size):
    fed = tiny_federation("fedotp")
    whole = fed.logits(0)
    monkeypatch.setattr(module, name, size)
    assert torch.allclose(fed.logits(0), whole, atol=1e-4)


def test_plans_that_are_not_finite_are_counted_and_training_goes_on():
    fed = tiny_federation("fedotp", transport_epsilon=1e-6, transport_iterations=500)
    trained = fed.clients[0].train(1, fed.privates[0], fed.download(0))
    assert trained.report.metrics["uniform_plans"] > 0
    assert trained.problem is None
    assert torch.isfinite(trained.private["context"]).all()


def test_training_learns():
    fed = tiny_federation("fedotp", local_epochs=5)
    examples = fed.examples(0)

    def loss():
        logits = fed.method.predict(tiny_task(fed.world, fed.privates[0], fed.download(0)), examples.images)
        return F.cross_entropy(logits, examples.labels)

    before = loss()
    fed.run([[0], [0]])
    assert loss() < 0.8 * before


@pytest.fixture(scope="module")
def usual_logits():
    return tiny_federation("fedotp").run([[0]]).logits(0)


@pytest.mark.parametrize(
    "option", [{"transport_mass": 0.5}, {"transport_epsilon": 0.02}, {"transport_iterations": 1}], ids=str
)
def test_every_option_changes_the_result(usual_logits, option):
    logits = tiny_federation("fedotp", **option).run([[0]]).logits(0)
    assert not torch.allclose(logits, usual_logits, atol=1e-4)
