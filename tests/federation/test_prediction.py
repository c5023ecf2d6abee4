"""Inputs of predictions: their own stream of randomness, images in an order of the seed, and candidates."""

from dataclasses import replace

import pytest
import torch

from promptfleet.federation.evaluation.answers import mean_right
from promptfleet.federation.evaluation.schedule import Plan
from promptfleet.federation.evaluation.scores import LOCAL, TEST, VAL
from promptfleet.federation.server import Server
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import Message
from tests.fakes import tiny_client, tiny_task, tiny_world


class Noisy(PromptFL):
    """Notes a number per predictor and predicts as usual."""

    def __init__(self):
        self.drawn = []

    def predictor(self, task):
        self.drawn.append(task.rng.integers(2**63))
        return super().predictor(task)


class Remembering(PromptFL):
    """Gives each batch the class that most images of the batches before it were near."""

    has_memory = True

    def __init__(self):
        self.seen, self.sizes = [], []

    def predictor(self, task):
        seen = []
        self.seen.append(seen)

        def predict(images):
            seen.extend(images.features.sum(dim=1).tolist())
            self.sizes.append(len(images))
            return self.predict(task, images)

        return predict


def evaluated(method, client_id=0, round_index=1, **config):
    world = tiny_world(**config)
    client = tiny_client(client_id, method, world, held_out=6)
    download = Server(method, world).select(round_index, [client_id], "evaluate")[client_id]
    return client.evaluate(round_index, {}, download)


def test_the_noise_of_predictions_depends_on_seed_and_client_alone():
    def drawn(**given):
        method = Noisy()
        evaluated(method, **given)
        validated, tested = method.drawn
        assert validated == tested
        return tested

    assert drawn() == drawn(round_index=2)
    assert len({drawn(), drawn(client_id=1), drawn(seed=1)}) == 3


def test_a_predictor_with_a_memory_gets_batches_in_an_order_of_the_seed():
    method, other_seed, plain = Remembering(), Remembering(), Remembering()
    plain.has_memory = False
    found = evaluated(method, batch_size=4)
    evaluated(method, batch_size=4, round_index=3)
    evaluated(other_seed, batch_size=4, seed=1)
    assert found == evaluated(plain, batch_size=4)
    assert method.sizes == [4, 2] * 4
    assert plain.sizes == [6, 6]
    assert method.seen[:2] == method.seen[2:]  # the same after each round
    for one, another, all_at_once in zip(method.seen, other_seed.seen, plain.seen, strict=False):
        assert one != all_at_once
        assert one != another
        assert sorted(one) == pytest.approx(sorted(all_at_once))


def test_only_candidates_are_answers():
    world = tiny_world()
    client = tiny_client(0, PromptFL(), world, held_out=8)  # labels take turns: two of each of four classes
    task = tiny_task(world, download=Message({}, {"text": torch.zeros(4, world.clip.tower.dim)}))
    test = client._held_out[TEST]
    assert mean_right(PromptFL(), task, test) == 0.25  # all logits are 0: the first class

    def of(*candidates, labels=test.labels):
        return mean_right(PromptFL(), replace(task, candidates=torch.tensor(candidates)), replace(test, labels=labels))

    assert of(False, False, True, False) == 0.25
    second = replace(task, candidates=torch.tensor([False, True, False, False]))
    assert client._evaluate(second, Plan((LOCAL,))).test_accuracy == 0.25
    twos = torch.full_like(test.labels, 2)
    assert (of(False, False, True, False, labels=twos), of(True, True, False, True, labels=twos)) == (1, 0)


def test_a_task_knows_its_validation_examples_and_its_classes():
    seen = []

    class Looking(PromptFL):
        def local_update(self, task):
            seen.append(task)
            return (yield from super().local_update(task))

    world = tiny_world()
    client = tiny_client(0, Looking(), world, held_out=5)
    client.train(1, {}, Server(PromptFL(), world).select(1, [0])[0])
    (task,) = seen
    assert torch.equal(task.val.labels, client._held_out[VAL].labels)
    assert torch.equal(task.val.images.features, client._held_out[VAL].images.features)
    assert task.classes.tolist() == [0, 1, 2, 3]
    assert replace(task, train=task.train[torch.tensor([1, 5])]).classes.tolist() == [1]
