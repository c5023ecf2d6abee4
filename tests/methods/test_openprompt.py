from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from promptfleet.clip.plain_encoder import encode_prompts_plainly
from promptfleet.errors import ConfigError
from promptfleet.federation.settings import federation_config
from promptfleet.methods import METHODS, config_class
from promptfleet.methods.parts.prompts import encode_frozen, similarity_logits
from promptfleet.methods.parts.side_by_side import run_alone
from promptfleet.methods.parts.template import parse_template
from promptfleet.methods.parts.verbalizers import calibrated, memberships, verbalized
from tests.fakes import tiny_clip, tiny_examples, tiny_task, tiny_world
from tests.tiny_federation import ALL, tiny_federation

COHORTS = [ALL, [0, 2]]
WORDS = [["class 0", "cat", "tabby"], ["class 1", "dog"], ["class 2", "hen"], ["class 3", "cow", "big ox", "bull"]]
BOTH_SIDES = "{soft:1} a photo of {class}, {hard: a kind of} {soft@x:2} {soft@x}."
SMALL = {"local_epochs": 1, "batch_size": 8, "prompt_length": 2}
OTHERS = sorted(set(METHODS) - {"openprompt"})
REFUSED = {"fedpha", "fedtpg", "fed_mp"}  # with words, or with places for a number of vectors
FAST = ["fedpgp", "pfedmoap"]


def openprompt(template="{soft} {class}.", **config):
    vectors = parse_template(template).vectors
    return tiny_federation("openprompt", template=template, prompt_length=3 if vectors is None else vectors, **config)


def plugged(name, **config):
    return tiny_federation(f"tests.methods.plug_ins:TemplateAndWords_{name}", **{**SMALL, **config})


def test_with_the_default_template_it_is_promptfl_bit_for_bit():
    fed, promptfl = tiny_federation("openprompt").run(COHORTS), tiny_federation("promptfl").run(COHORTS)
    assert fed.sha256() == promptfl.sha256()
    assert all(torch.equal(fed.logits(i), promptfl.logits(i)) for i in ALL)
    assert fed.world.clip.classes.frame is None  # nor any cost of one


@pytest.mark.parametrize("name", [one if one in FAST else pytest.param(one, marks=pytest.mark.slow) for one in OTHERS])
def test_the_plug_in_is_the_method_below_by_default_and_gives_it_words_in_a_template(name):
    fed, below = plugged(name).run(COHORTS), tiny_federation(name, **SMALL).run(COHORTS)
    assert fed.sha256() == below.sha256()
    assert all(torch.equal(fed.logits(i), below.logits(i)) for i in ALL)

    other = plugged(name, words=WORDS, verbalizer="knowledgeable", template="{soft:1} a {class}, {soft:1}.")
    if name in REFUSED:
        with pytest.raises(ConfigError, match=r"template out|words of classes"):
            other.method.check(other.world)
        return
    other.method.check(other.world)
    other.run(COHORTS)
    for i in ALL:
        assert other.logits(i).shape == (8, 4)
        assert torch.isfinite(other.logits(i)).all()
    assert name == "zero_shot" or other.privates[0]["verbalizer.omega"].abs().sum() > 0
    assert not torch.allclose(other.logits(0), below.logits(0), atol=1e-3)


def test_a_prompt_is_the_template_with_each_word():
    world = openprompt(template=BOTH_SIDES, words=WORDS).world
    classes = world.clip.classes
    assert world.config.prompt_length == 3  # equal names are the same vectors
    assert world.text_classes.tolist() == [0, 0, 1, 2, 3, 3, 3]
    # hard tokens that all words share come with the context: a photo of
    assert classes.frame.sources.tolist() == [0, 3, 3, 3, 1, 2, 1, 2, 3]
    assert classes.frame.before == 4
    assert classes.lengths.tolist() == [1 + 4 + 1, 6, 6, 6, 6, 7, 6]  # word, ", a kind of" and EOT
    context = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    plain = encode_prompts_plainly(world.clip.tower, classes, context)
    assert torch.allclose(encode_frozen(world, context[0]), plain[0], atol=1e-6)


def test_hard_text_alone_trains_nothing_and_words_of_a_soft_slot_are_where_it_starts():
    one_each = [of_class[:2] for of_class in WORDS]
    hard = openprompt(template="a photo of a {class}.", words=one_each)
    start = hard.logits(0)
    assert torch.equal(hard.run(COHORTS).logits(0), start)
    trained = hard.clients[0].train(3, {}, hard.download(0))
    assert trained.upload.num_bytes == 0
    assert trained.report.metrics == {}
    soft = openprompt(template="{soft:4 a photo of a} {class}.", words=one_each)
    assert torch.allclose(soft.logits(0), start, atol=1e-4)
    assert not torch.allclose(soft.run(COHORTS).logits(0), start, atol=1e-4)


def test_equal_names_add_up_their_gradients():
    """A step of a vector in two places is that of two vectors in one place each, which are equal, added up."""
    one_step = {"local_epochs": 1, "batch_size": 100, "shuffle": False, "momentum": 0.0, "weight_decay": 0.0}
    twice = openprompt(template="{soft@x:1} {class} {soft@x}.", **one_step)
    two = openprompt(template="{soft:1} {class} {soft:1}.", **one_step)
    start = twice.server.state["context"]
    two.server.state = {**two.server.state, "context": start.expand(2, -1).clone()}
    steps = []
    for fed in (twice, two):
        context = fed.server.state["context"]
        download = fed.download(1)
        steps.append(fed.clients[1].train(1, {}, download).upload.tensors["context"] - context)
    assert steps[0].norm() > 1e-4
    assert torch.allclose(steps[0], steps[1].sum(dim=0, keepdim=True), atol=1e-6)


def test_the_verbalizers_formulas():
    classes = torch.tensor([0, 0, 1, 2, 2, 2])
    of_class = memberships(classes, 3)
    scores = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    log_p = scores.log_softmax(dim=1)
    manual = verbalized(scores, of_class)
    assert torch.allclose(manual[:, 2], log_p[:, 3:].mean(dim=1), atol=1e-6)
    assert torch.allclose(verbalized(scores, of_class, torch.zeros(6)), manual, atol=1e-6)
    swapped = [1, 0, 2, 5, 3, 4]  # within classes
    assert torch.allclose(verbalized(scores[:, swapped], of_class), manual, atol=1e-6)
    omega = torch.tensor([0.0, 1.0, 5.0, 0.0, 0.0, 2.0])
    wanted = log_p[:, :2] @ omega[:2].softmax(dim=0)
    assert torch.allclose(verbalized(scores, of_class, omega)[:, 0], wanted, atol=1e-6)

    p0 = torch.full((1, 6), 3.0)  # uniform
    assert torch.allclose(calibrated(scores, p0).softmax(dim=1), scores.softmax(dim=1), atol=1e-6)
    p0 = torch.tensor([[9.0, 0.0, 0.0, 0.0, 0.0, -99.0]])
    divided = scores.softmax(dim=1) / p0.softmax(dim=1).clamp(min=1e-6)
    found = calibrated(scores, p0).softmax(dim=1)
    assert torch.allclose(found, divided / divided.sum(dim=1, keepdim=True), atol=1e-6)
    assert torch.allclose(found.sum(dim=1), torch.ones(4))


def test_predictions_are_the_mean_log_probabilities_of_words():
    fed = openprompt(words=WORDS, template=BOTH_SIDES).run([ALL])
    images = tiny_examples(fed.world, 8, seed=77).images
    log_p = similarity_logits(fed.world, images.features, fed.server.state["text"]).log_softmax(dim=1)
    wanted = torch.stack([log_p[:, fed.world.text_classes == label].mean(dim=1) for label in range(4)], dim=1)
    assert torch.allclose(fed.logits(0), wanted, atol=1e-4)


@pytest.mark.parametrize(("verbalizer", "name"), [("knowledgeable", "omega"), ("soft", "added")])
def test_a_learned_verbalizer_stays_with_its_client_or_is_averaged(verbalizer, name):
    private, shared = (
        openprompt(words=WORDS, verbalizer=verbalizer, verbalizer_scope=scope).run(COHORTS)
        for scope in ("private", "shared")
    )
    key, size = f"verbalizer.{name}", {"omega": 7, "added": 4 * 24}[name]
    assert private.privates[0][key].numel() == size
    assert not torch.equal(private.privates[0][key], private.privates[2][key])
    assert private.download(0).num_bytes == 4 * 3 * 16
    assert private.method.trained_parameters(private.world) == shared.method.trained_parameters(shared.world)
    assert shared.privates[0] == {}
    assert shared.server.state[key].abs().sum() > 0
    assert shared.download(0).num_bytes == 4 * (3 * 16 + size)
    # the server's model has a shared verbalizer, and of private ones the start
    for fed in (private, shared):
        task = tiny_task(fed.world, fed.method.server_model(tiny_task(fed.world)), fed.download(0))
        logits = fed.method.predict(task, tiny_examples(fed.world, 8, seed=77).images)
        assert torch.equal(logits, fed.logits(0)) is (fed is shared)


def test_each_option_changes_the_result():
    options = [
        {},
        {"template": "{soft:3} the {class}."},
        {"verbalizer": "knowledgeable"},
        {"verbalizer": "knowledgeable", "verbalizer_lr": 0.5},
        {"verbalizer": "knowledgeable", "verbalizer_scope": "shared"},
        {"verbalizer": "soft"},
        {"calibration": "mean_feature"},
    ]
    logits = [openprompt(words=WORDS, **one).run(COHORTS).logits(0) for one in options]
    logits.append(openprompt().run(COHORTS).logits(0))  # one word per class
    for i, one in enumerate(logits):
        assert not any(torch.equal(one, other) for other in logits[:i])


def test_calibration_divides_by_the_clients_mean_feature():
    fed = openprompt(calibration="mean_feature")
    download, examples = fed.download(0), fed.examples(0)
    task = tiny_task(fed.world, {}, download, examples)
    task = replace(task, private=run_alone(fed.world, fed.method.personalize(task), "personalize"))
    mean = F.normalize(examples.images.features.mean(dim=0, keepdim=True), dim=1)
    images = replace(examples.images, features=mean)
    assert torch.allclose(fed.method.predict(task, images).softmax(dim=1), torch.full((1, 4), 0.25), atol=1e-5)


def test_other_classes_get_their_words_and_a_verbalizer_at_its_start():
    fed = openprompt(words=WORDS, verbalizer="soft").run([ALL])
    other = [["class 0", "pig"], ["class 1", "fox", "wolf"]]
    clip, config = tiny_clip((1, 2), layers=1), {**fed.world.config.to_dict(), "words": other}
    world = tiny_world(config_class=config_class("openprompt"), clip=clip, **config)
    task = tiny_task(fed.world, fed.privates[0], fed.download(0))
    task = run_alone(world, fed.method.reworded(task, world), "reworded")
    assert not task.private["verbalizer.added"].any()
    images = tiny_examples(fed.world, 8, seed=77).images
    scores = similarity_logits(world, images.features, encode_frozen(world, fed.server.state["context"]))
    wanted = torch.stack([scores[:, 0], scores[:, 1:].mean(dim=1)], dim=1)
    assert torch.allclose(fed.method.predict(task, images), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"template": "a photo of a"}, r"^--set: template: there is no \{class\}, the place of"),
        ({"template": "{soft:2} {class}", "prompt_length": 3}, r"prompt_length=3: the template has 2 vectors; set it"),
        (
            {"method": "promptfleet.methods.openprompt:OpenPromptOnFedPGP", "template": "a {class}"},
            r"^--set: template: there is no soft slot to train, such as {soft:4}$",
        ),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        federation_config({"method": "openprompt", **config}, source="--set")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"template": "{soft:3 a photo} {class}"},
            r"'a photo' has 2 tokens, and its soft slot 3 vectors; write {s",
        ),
        (
            {"template": "{soft:3} {class}" + " very" * 71},
            r"has 78 tokens with the longest word, of class 'class 0', .* 77 p",
        ),
        ({"verbalizer": "knowledgeable"}, "weighs the words of a class, and each has one; set words_file"),
        ({"class_token_position": "front"}, "the template has the place of the class; leave class_token_position out"),
        ({"words": WORDS[:3]}, "words: there is nothing for class 'class 3'"),
    ],
)
def test_what_does_not_fit_the_classes_or_the_tower_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):  # noqa: PT012
        fed = openprompt(**config)
        fed.method.check(fed.world)


def test_a_word_of_two_classes_is_reported(caplog):
    fed = openprompt(words=[*WORDS[:3], ["class 3", "cow", "dog"]])
    fed.method.check(fed.world)
    assert "words: 'dog' is a word of 'class 1' and of 'class 3'" in caplog.text
