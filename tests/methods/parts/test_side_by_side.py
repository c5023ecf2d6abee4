"""Local updates side by side: the same numbers as alone, in fewer runs of the text tower."""

from dataclasses import replace

import pytest
import torch

from promptfleet.clip.plain_encoder import encode_prompts_plainly
from promptfleet.errors import MethodError
from promptfleet.federation.client import evaluate_together, train_together
from promptfleet.federation.evaluation.schedule import Plan
from promptfleet.federation.evaluation.scores import LOCAL
from promptfleet.federation.server import Server
from promptfleet.methods.parts import side_by_side as lockstep
from promptfleet.methods.parts.prompts import encode_frozen
from promptfleet.methods.parts.side_by_side import run_alone, run_together
from promptfleet.methods.pfedmoap import PFedMoAP
from promptfleet.methods.protocol import Backward, Encode, Examples, Gradients, Images, Message, Update
from tests.fakes import tiny_classes, tiny_client, tiny_examples, tiny_tower, tiny_world
from tests.tiny_federation import tiny_federation

METHOD = PFedMoAP()


def federation(**config):
    """Clients with 6, 8, 10 and 12 examples in batches of 4, their states and downloads of the third round."""
    world = tiny_world(**config)
    clients = [tiny_client(client, METHOD, world) for client in range(4)]
    server = Server(METHOD, world)
    privates = {client.id: client.initial_state() for client in clients}
    for round_index in (1, 2):
        trained = train_together(clients, round_index, privates, server.select(round_index, range(4)))
        privates = {client: one.private for client, one in trained.items()}
        server.aggregate(round_index, trained)
    return clients, privates, server.select(3, range(4))


@pytest.fixture
def encodings(monkeypatch):
    """Return the number of prompts in each run of the text tower."""
    sizes = []

    def counted(world, contexts, texts, lengths, encode=lockstep.encode_contexts):
        sizes.append(len(contexts))
        return encode(world, contexts, texts, lengths)

    monkeypatch.setattr(lockstep, "encode_contexts", counted)
    return sizes


@pytest.mark.parametrize("config", [{}, {"class_token_position": "middle"}, {"class_specific_context": True}])
def test_together_gives_the_same_bits_as_alone(config):
    clients, privates, downloads = federation(**config)
    together = train_together(clients, 3, privates, downloads)
    for client in clients:
        alone = client.train(3, privates[client.id], downloads[client.id])
        beside = together[client.id]
        assert alone.private.keys() == beside.private.keys()
        assert all(torch.equal(alone.private[name], beside.private[name]) for name in alone.private)
        assert torch.equal(alone.upload.tensors["context"], beside.upload.tensors["context"])
        assert alone.report.metrics == beside.report.metrics
        assert not torch.equal(alone.private["context"], downloads[client.id].tensors["context"])


def test_steps_of_the_same_moment_are_one_run_of_the_text_tower(encodings):
    clients, privates, downloads = federation()
    encodings.clear()
    train_together(clients, 3, privates, downloads)
    # two epochs of 2, 2, 3 and 3 batches: four steps by all, two by the longer ones while the others finish
    assert encodings == [4, 4, 4, 4, 2, 2, 2, 2]
    encodings.clear()
    clients[3].train(3, privates[3], downloads[3])
    assert encodings == [1] * 7


def test_only_so_many_at_a_time(encodings, monkeypatch):
    clients, privates, downloads = federation()
    everybody = train_together(clients, 3, privates, downloads)
    monkeypatch.setattr(lockstep, "SIDE_BY_SIDE", 3)
    encodings.clear()
    in_two_groups = train_together(clients, 3, privates, downloads)
    assert max(encodings) == 3
    for client, trained in in_two_groups.items():
        assert torch.equal(trained.private["context"], everybody[client].private["context"])


def test_a_client_that_breaks_leaves_its_neighbours_alone():
    clients, privates, downloads = federation()
    train = tiny_examples(tiny_world(), 8, seed=1)
    features = train.images.features.clone()
    features[0] = float("nan")
    clients[1] = tiny_client(1, METHOD, tiny_world(), train=Examples(Images(features), train.labels))
    together = train_together(clients, 3, privates, downloads)
    assert together[1].upload is None
    for client in (clients[0], clients[2], clients[3]):
        alone = client.train(3, privates[client.id], downloads[client.id])
        assert all(torch.equal(alone.private[name], together[client.id].private[name]) for name in alone.private)


def test_an_update_without_prompts_needs_no_tower(encodings):
    plain = Update({}, Message({}), {"loss": 1.0})

    def asks_once(context):
        text = yield Encode(context)
        return Update({"text": text}, Message({}), {})

    world = tiny_world()
    first, second = run_together(world, [plain, asks_once(torch.zeros(2, 3, world.clip.tower.width))])
    assert first is plain
    assert second.private["text"].shape == (2, 4, world.clip.tower.dim)
    assert encodings == [2]


def asks_for_a_number():
    yield 3


def comes_to_nothing():
    yield Encode(torch.zeros(1, 4, 8))


@pytest.mark.parametrize(
    ("update", "what"),
    [
        ({"context": 1}, "returned a dict"),
        (None, "returned None"),
        (asks_for_a_number(), "asked for a int"),
        (comes_to_nothing(), "came to None"),
    ],
)
def test_a_local_update_that_is_none_is_one_line(monkeypatch, update, what):
    monkeypatch.setattr(lockstep, "encode_contexts", lambda world, contexts, texts, lengths: contexts)
    wanted = (
        rf"^method pfedmoap: local_update {what}, should be a generator .* returns an Update, or return one itself$"
    )
    with pytest.raises(MethodError, match=wanted):
        run_together(tiny_world(), [update])


@pytest.mark.parametrize("function", ["init_server", "aggregate", "personalize"])
def test_work_of_another_function_comes_to_a_state(monkeypatch, function):
    monkeypatch.setattr(lockstep, "encode_contexts", lambda world, contexts, texts, lengths: contexts)
    assert run_alone(tiny_world(), {"a": torch.ones(1)}, function).keys() == {"a"}
    wanted = rf"^method pfedmoap: {function} came to None, should be .* and returns a state, or return one itself$"
    with pytest.raises(MethodError, match=wanted):
        run_alone(tiny_world(), comes_to_nothing(), function)


def test_clients_tune_before_an_evaluation_in_the_same_runs_of_the_text_tower(encodings):
    fed = tiny_federation("promptfl_ft", batch_size=4, finetune_epochs=1)
    downloads = fed.server.select(1, range(4))
    encodings.clear()
    evaluate_together(list(fed.clients.values()), 1, fed.privates, downloads, Plan((LOCAL,), 0))
    # batches of 6, 8, 10 and 12 examples: 2, 2, 3 and 3 steps, and the text features of what came of them
    assert encodings == [4, 4, 2, 2, 2]


def test_contexts_of_other_texts_are_encoded_with_those():
    world, width = tiny_world(), 16
    words = tiny_classes(tiny_tower(), (2, 1, 3))
    world = replace(world, texts={"words": words})
    contexts = torch.randn(3, 2, width, generator=torch.Generator().manual_seed(0))

    def work(context, texts):
        (text,) = yield Encode(context.unsqueeze(0), texts)
        return {"text": text}

    asked = [(contexts[0], "words"), (contexts[1], "classes"), (contexts[2], "words")]
    results = run_together(world, [work(*one) for one in asked], "personalize")
    for (context, texts), result in zip(asked, results, strict=True):
        assert torch.equal(result["text"], encode_frozen(world, context, texts))
        assert torch.allclose(
            result["text"], encode_prompts_plainly(world.clip.tower, world.tokens(texts), context[None])[0], atol=1e-5
        )
    with pytest.raises(MethodError, match=r"^method pfedmoap: there are no texts 'word', only classes, words$"):
        run_alone(world, work(contexts[0], "word"), "personalize")


def test_gradients_of_each_work_are_its_own_and_can_be_differentiated_again():
    def work(weight):
        leaf = torch.tensor([1.0, 2.0], requires_grad=True)
        (first,) = yield Gradients(weight * leaf.pow(3).sum(), [leaf])
        assert leaf.grad is None
        yield Backward(first.sum())
        return {"first": first.detach(), "second": leaf.grad}

    both = run_together(tiny_world(), [work(1.0), work(2.0)], "aggregate")
    for weight, state in zip((1.0, 2.0), both, strict=True):
        assert state["first"].tolist() == [3 * weight, 12 * weight]
        assert state["second"].tolist() == [6 * weight, 12 * weight]
