"""One training step of FedOTP, FedPGP, PromptFL, FedProx and FedTPG against their published code's numbers.

A step goes through ``local_update`` with one batch, plain SGD and a learning rate of 1, so that the parameters lose
exactly their gradient.
"""

import numpy as np
import open_clip
import pytest
import torch

from promptfleet.clip.patches import PatchEncoder
from promptfleet.clip.tokens import class_texts
from promptfleet.methods.fedotp import FedOTP
from promptfleet.methods.fedpgp import FedPGP
from promptfleet.methods.fedprox import FedProx
from promptfleet.methods.fedtpg import FedTPG, cosine
from promptfleet.methods.parts.optimal_transport import transport_plans
from promptfleet.methods.parts.prompt_generator import generate_context, generator_shapes
from promptfleet.methods.parts.prompts import encode_contexts
from promptfleet.methods.parts.side_by_side import run_alone
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import Call, Examples, Images, Message, World
from tests.fakes import tiny_arrived, tiny_task
from tests.parity import Golden, load_golden, relative_error

CLOSE, GRADIENT = 1e-4, 1e-3  # absolute, of features, logits and losses; relative, of a gradient's norm


def make_world(golden: Golden, method, *, zero_shot_text=None, **config) -> World:
    step = {"batch_size": len(golden.tensors["labels"]), "local_epochs": 1, "shuffle": False}
    plain = {"momentum": 0.0, "weight_decay": 0.0, "prompt_lr": 1.0, "prompt_length": int(golden.meta["n_ctx"])}
    return golden.world(method.Config.model_validate({**step, **plain, **config}), zero_shot_text)


def step(method, world, private, download, examples):
    """The update of one batch, and its loss."""
    update = run_alone(world, method.local_update(tiny_task(world, private, download, examples)))
    return update, update.metrics["loss"]


def in_float32(golden: Golden) -> dict[str, torch.Tensor]:
    return {
        name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in golden.tensors.items()
    }


def near(ours, theirs, limit=CLOSE):
    assert ours.shape == theirs.shape
    assert (ours.double() - theirs.double()).abs().max() <= limit


@pytest.mark.parametrize("name", ["vit_converged", "vit_script_cifar100"])
def test_fedotp(name):
    golden, method = load_golden("fedotp", name), FedOTP()
    values = in_float32(golden)
    mass, epsilon = (float(golden.meta[key]) for key in ("mass", "eps"))
    iterations = int(golden.meta["iterations"]) - 1  # n of ours are n + 1 published ones, see transport.py
    transport = {"transport_mass": mass, "transport_epsilon": epsilon}
    world = make_world(golden, method, **transport, transport_iterations=iterations)
    with torch.no_grad():
        features, patches = PatchEncoder(golden.model, "tiny")(values["images"])
        text = encode_contexts(world, values["context"])
    near(patches, values["patch_features"])
    near(features, values["features"])
    near(text, values["text_features"])

    images, (shared, own) = Images(features, patches), values["context"]
    download = Message({"context": shared}, attached={"text": text[0]})
    private = {"context": own, "text": text[1], "participations": torch.tensor(1)}
    update, loss = step(method, world, private, download, Examples(images, values["labels"]))
    similarity = torch.einsum("bmd,ncd->bncm", values["patch_features"], values["text_features"])
    plans, _ = transport_plans(similarity, mass=mass, epsilon=epsilon, iterations=iterations)
    theirs = values["plans"].unflatten(0, (len(features), -1)).permute(0, 3, 1, 2)
    near(plans * plans.shape[-1], theirs * plans.shape[-1])
    near(method.predict(tiny_task(world, private, download), images), values["logits"])
    assert loss == pytest.approx(float(values["loss"]), abs=CLOSE)
    ended = torch.stack([update.upload.tensors["context"], update.private["context"]])
    for gradient, wanted in zip(values["context"] - ended, values["grad_context"], strict=True):
        assert relative_error(gradient, wanted) < GRADIENT

    if name == "vit_script_cifar100":  # the published loop stops by the mean change, ours once all have converged
        at_its_own_stop = method.predict(tiny_task(make_world(golden, method, **transport), private, download), images)
        near(at_its_own_stop, values["logits"], 2e-3)


def test_fedpgp():
    golden, method = load_golden("fedpgp", "default"), FedPGP()
    values = in_float32(golden)
    world = make_world(
        golden,
        method,
        zero_shot_text=values["anchor_text"],
        factor_rank=int(golden.meta["rank"]),
        contrast_weight=float(golden.meta["mu"]),
        contrast_temperature=float(golden.meta["temp"]),
    )
    with torch.no_grad():
        features = golden.image_features(values["images"])
        personal = values["sigma"] + values["U"] @ values["V"]
        own_text, general_text = encode_contexts(world, torch.stack([personal, values["sigma"]]))
        placeholder = golden.model.token_embedding(open_clip.tokenize("X")[0, 1:2]).expand(len(values["sigma"]), -1)
        anchor = encode_contexts(world, placeholder[None])[0]
    near(features, values["features"])
    near(own_text, values["personal_text"])
    near(general_text, values["general_text"])
    near(anchor, values["anchor_text"])

    private, download = {"left": values["U"], "right": values["V"]}, Message({"context": values["sigma"]})
    examples = Examples(Images(features), values["labels"])
    update, loss = step(method, world, private, download, examples)
    assert loss == pytest.approx(float(values["loss"]), abs=CLOSE)
    ended = {"sigma": update.upload.tensors["context"], "U": update.private["left"], "V": update.private["right"]}
    for name, end in ended.items():
        assert relative_error(values[name] - end, values[f"grad_{name}"]) < GRADIENT, name
    tested = run_alone(world, method.personalize(tiny_task(world, private, download, examples)), "personalize")
    logits = method.predict(tiny_task(world, tested, download), examples.images)
    near(logits, values["logits_tested"])
    near(logits, values["logits"])


def test_promptfl():
    golden, method = load_golden("fedprox", "promptfl"), PromptFL()
    values = in_float32(golden)
    world = make_world(golden, method)
    features = golden.image_features(values["images"])
    near(features, values["features"])
    with torch.no_grad():
        text = encode_contexts(world, values["context"][None])[0]
    examples = Examples(Images(features), values["labels"])
    download = Message({"context": values["context"]}, attached={"text": text})
    near(method.predict(tiny_task(world, {}, download), examples.images), values["logits"])
    update, loss = step(method, world, {}, download, examples)
    assert loss == pytest.approx(float(values["loss"]), abs=CLOSE)
    assert relative_error(values["context"] - update.upload.tensors["context"], values["grad_context"]) < GRADIENT


def test_fedprox_has_the_published_loss_and_the_gradient_of_its_penalty():
    """The published penalty is made of detached tensors: its value counts in the loss, its gradient is lost."""
    golden, method = load_golden("fedprox", "fedprox"), FedProx()
    values, mu = in_float32(golden), float(golden.meta["mu"])
    world = make_world(golden, method, mu=mu)
    examples = Examples(Images(golden.image_features(values["images"])), values["labels"])
    context = values["context"].clone().requires_grad_()
    text = encode_contexts(world, context[None])[0]
    loss = method.loss(tiny_task(world, download=Message({"context": values["anchor"]})), context, text, examples)
    assert loss.item() == pytest.approx(float(values["loss"]), abs=CLOSE)
    loss.backward()
    penalty = mu * (values["context"] - values["anchor"])
    assert penalty.norm() > 0.1 * values["grad_context"].norm()
    assert relative_error(context.grad - penalty, values["grad_context"]) < GRADIENT


def test_fedtpg():
    golden, method = load_golden("fedtpg", "all_classes"), FedTPG()
    values, rounds = in_float32(golden), int(golden.meta["rounds"])
    world = make_world(golden, method, zero_shot_text=values["class_text"], generator_classes="all", rounds=rounds)
    sent = {name: values[name] for name in values if name.startswith("generator.")}
    net = {name.removeprefix("generator."): tensor for name, tensor in sent.items()}
    tower, available = world.clip.tower, values["available"]
    shapes = generator_shapes(world.config.prompt_length, tower.width, tower.dim)
    assert {name: tuple(tensor.shape) for name, tensor in net.items()} == shapes
    features = golden.image_features(values["images"])
    near(features, values["features"])
    with torch.no_grad():
        near(
            golden.model.encode_text(open_clip.tokenize(class_texts(world.class_names, "{}")), normalize=True),
            values["class_text"],
        )
        near(generate_context(net, values["class_text"][available]), values["context"])

    examples = Examples(Images(features), available[values["labels"]])
    update, loss = step(method, world, {}, Message(sent), examples)
    assert loss == pytest.approx(float(values["loss"]), abs=CLOSE)
    gradients = {name: sent[name] - update.upload.tensors[name] for name in sent}
    whole = torch.cat([values[f"grad_{name}"].flatten() for name in sent]).norm()
    for name, gradient in gradients.items():
        wanted = values[f"grad_{name}"]
        if wanted.norm() > 1e-6 * whole:
            assert relative_error(gradient, wanted) < GRADIENT, name
        else:  # zero but for rounding
            assert gradient.norm() < 1e-6 * whole, name

    server = method.aggregate({}, tiny_arrived(world, {0: Message(sent)}, {0: 8}))
    near(server["context"], values["context_of_all"])
    (download,) = method.select(server, Call(world, 6, [0], "train", np.random.default_rng(0))).values()
    near(method.predict(tiny_task(world, {}, download), examples.images), values["logits_of_all"])
    tripled = {name: 3 * tensor for name, tensor in sent.items()}
    both = {0: Message(sent), 1: Message(tripled)}
    mean = method.aggregate(server, tiny_arrived(world, both, {0: 8, 1: 80}))
    for name in sent:  # clients of different size count the same
        near(mean[name], 2 * sent[name])
    rates = [cosine(float(golden.meta["lr"]), index, rounds) for index in range(rounds)]
    assert torch.allclose(torch.tensor(rates, dtype=torch.float64), values["learning_rates"], rtol=1e-6)
