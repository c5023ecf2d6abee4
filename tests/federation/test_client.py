from dataclasses import replace

import numpy as np
import pytest
import torch

from promptfleet.federation.client import ClientResult
from promptfleet.federation.server import Server
from promptfleet.methods.parts.states import state_sha256
from promptfleet.methods.pfedmoap import PFedMoAP
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import Examples, Images
from tests.fakes import tiny_client, tiny_examples, tiny_task, tiny_world


def first_round(world, **client):
    """A client, its initial private state, and its download of round 1."""
    method = PFedMoAP()
    member = tiny_client(0, method, world, **client)
    return member, member.initial_state(), Server(method, world).select(1, [0])[0]


def sha(state):
    return state_sha256(state, {})


def test_initial_state_depends_on_seed_and_client_alone():
    def initial(client_id, seed=0):
        return sha(tiny_client(client_id, PFedMoAP(), tiny_world(seed=seed)).initial_state())

    assert initial(1) == initial(1)
    assert len({initial(0), initial(1), initial(0, seed=1)}) == 3


def test_any_call_can_be_done_again_by_another_object():
    world = tiny_world()
    runs = []
    for _ in range(2):
        member, private, download = first_round(world)
        trained = member.train(1, private, download)
        runs.append((sha(trained.private), sha(trained.upload.tensors), trained.report.metrics))
    assert runs[0] == runs[1]


def test_rounds_draw_their_own_batches():
    member, private, download = first_round(tiny_world())
    contexts = [member.train(round_index, private, download).private["context"] for round_index in (1, 2)]
    assert not torch.equal(contexts[0], contexts[1])


def test_report_counts_bytes_and_examples():
    world = tiny_world()
    member, private, download = first_round(world, train=tiny_examples(world, 7))
    trained = member.train(1, private, download)
    report = trained.report
    context_bytes = 4 * 3 * world.clip.tower.width
    assert (report.downloaded_bytes, report.uploaded_bytes) == (context_bytes, context_bytes)
    assert (trained.num_examples, trained.problem) == (7, None)
    assert set(report.metrics) == {"loss", "last_loss"}
    assert report.seconds > 0


def test_attached_tensors_that_the_client_picks_count_as_downloaded():
    class Fetches(PromptFL):
        def local_update(self, task):
            update = yield from super().local_update(task)
            return replace(update, fetched={"text": task.download.attached["text"][:2]})

    world = tiny_world()
    reports = []
    for method in (PromptFL(), Fetches()):
        member = tiny_client(0, method, world)
        reports.append(member.train(1, {}, Server(method, world).select(1, [0])[0]).report)
    assert reports[1].downloaded_bytes - reports[0].downloaded_bytes == 4 * 2 * world.clip.tower.dim
    assert reports[1].uploaded_bytes == reports[0].uploaded_bytes


def test_training_leaves_the_given_state_as_it_was():
    member, private, download = first_round(tiny_world())
    before = sha(private), sha(download.tensors), sha(download.attached)
    member.train(1, private, download)
    member.evaluate(1, private, download)
    assert (sha(private), sha(download.tensors), sha(download.attached)) == before


def assert_refused(member, private, download):
    before = sha(private)
    trained = member.train(1, private, download)
    refused = ClientResult(None, trained.num_examples, "context is not finite after the local update")
    assert trained.for_server() == refused
    assert trained.report.uploaded_bytes == 0
    assert sha(trained.private) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_feature_keeps_the_private_state_and_gives_a_reason(value):
    world = tiny_world()
    good = tiny_examples(world, 6)
    features = good.images.features.clone()
    features[2, 5] = value
    assert_refused(*first_round(world, train=Examples(Images(features), good.labels)))


def test_a_learning_rate_that_overflows_keeps_the_private_state_and_gives_a_reason():
    assert_refused(*first_round(tiny_world(prompt_lr=1e38, weight_decay=0.9)))


class BrokenGate(PFedMoAP):
    """Trains as usual and ends with one Inf in the gate, which is never uploaded."""

    def local_update(self, task):
        update = yield from super().local_update(task)
        update.private["gate.value.bias"][3] = float("inf")
        return update


def test_a_broken_gate_alone_rolls_everything_back_and_uploads_nothing():
    world = tiny_world()
    member = tiny_client(0, BrokenGate(), world)
    private = {name: tensor.clone() for name, tensor in member.initial_state().items()}
    before = sha(private)
    trained = member.train(1, private, Server(PFedMoAP(), world).select(1, [0])[0])
    assert trained.upload is None
    assert trained.problem == "gate.value.bias is not finite after the local update"
    assert sha(trained.private) == before


def test_evaluation_counts_right_answers_on_validation_and_test_part():
    world = tiny_world()
    member, private, download = first_round(world, held_out=4)
    held_out = tiny_examples(world, 8, seed=1000)
    logits = PFedMoAP().predict(tiny_task(world, private, download), held_out.images)
    right = (logits.argmax(dim=1) == held_out.labels).numpy()
    evaluation = member.evaluate(1, private, download)
    assert (evaluation.val_accuracy, evaluation.test_accuracy) == (right[:4].mean(), right[4:].mean())
    assert evaluation.client == 0


class Personalized(PFedMoAP):
    """Predicts with what ``personalize`` returned: a constant first class."""

    def personalize(self, task):
        assert len(task.train) == 6
        assert np.issubdtype(type(task.rng.integers(5)), np.integer)
        return {**task.private, "personal": torch.tensor(1)}

    def predict(self, task, images):
        logits = torch.zeros(len(images), 4)
        logits[:, 0] = task.private["personal"]
        return logits


def test_evaluation_predicts_with_the_personalized_state():
    world = tiny_world()
    member = tiny_client(0, Personalized(), world, held_out=8)
    download = Server(PFedMoAP(), world).select(1, [0])[0]
    evaluation = member.evaluate(1, member.initial_state(), download)
    assert (evaluation.val_accuracy, evaluation.test_accuracy) == (0.25, 0.25)  # labels take turns
