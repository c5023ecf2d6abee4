"""Rules that every method keeps: a new one is tested here by its name in METHODS alone."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from promptfleet.errors import ConfigError
from promptfleet.federation.checkpoints.checkpoint import load_snapshot, save_snapshot
from promptfleet.federation.client import ClientResult, evaluate_together, train_together
from promptfleet.federation.evaluation.schedule import Plan
from promptfleet.federation.evaluation.scores import LOCAL
from promptfleet.federation.on_ray.wire import stack, unstack
from promptfleet.federation.rounds import Snapshot
from promptfleet.methods import METHODS, load_method
from promptfleet.methods.parts.side_by_side import run_alone
from promptfleet.methods.parts.states import state_sha256
from promptfleet.methods.protocol import AttachesToUploads, Call, Describes, HasServerModel, Message, Method
from tests import tiny_federation as tiny
from tests.fakes import tiny_arrived, tiny_examples, tiny_task
from tests.tiny_federation import ALL, TinyFederation, equal

pytestmark = pytest.mark.parametrize("name", sorted(METHODS))


def tiny_federation(name: str, **config) -> TinyFederation:
    return tiny.tiny_federation(name, local_epochs=1, batch_size=8, prompt_length=2, **config)


@cache
def after_a_round(name: str) -> TinyFederation:
    """Return a federation after a round of all clients, for tests that only read it."""
    return tiny_federation(name).run([ALL])


def test_a_name_is_a_method_with_a_configuration_that_names_it(name):
    assert isinstance(load_method(name), Method)
    assert tiny_federation(name).world.config.method == name


def test_nothing_given_is_changed_and_nothing_given_back_has_a_gradient(name):
    fed = tiny_federation(name).run([ALL, ALL])
    method, world = fed.method, fed.world
    private, download, examples = fed.privates[0], fed.download(0), tiny_examples(fed.world, 9)
    begun = method.local_update(tiny_task(world, private, download, examples))
    update = run_alone(world, begun)
    server = dict(fed.server.state)
    given = {
        "server": server,
        "private": private,
        "download": {**download.tensors, **{f"attached {key}": value for key, value in download.attached.items()}},
        "upload": {**update.upload.tensors, **update.upload.attached},
        "examples": {"features": examples.images.features, "labels": examples.labels},
    }
    before = {part: {key: tensor.clone() for key, tensor in state.items()} for part, state in given.items()}

    again = run_alone(world, method.local_update(tiny_task(world, private, download, examples)))
    method.select(server, Call(world, 3, ALL, "train", np.random.default_rng(0)))
    aggregated = run_alone(
        world, method.aggregate(server, tiny_arrived(world, {0: update.upload}, {0: 9})), "aggregate"
    )
    personal = run_alone(world, method.personalize(tiny_task(world, private, download, examples)), "personalize")
    if isinstance(method, Describes):
        method.describe(tiny_task(world, personal, download), examples.images)
    method.predict(tiny_task(world, personal, download), examples.images)

    for part, state in given.items():
        assert equal(state, before[part]), part
        assert all(tensor.grad is None for tensor in state.values()), part
    for state in (again.private, again.upload.tensors, again.upload.attached, aggregated, personal):
        assert not any(tensor.requires_grad for tensor in state.values())


def test_side_by_side_gives_the_same_bits_as_one_after_the_other(name):
    fed = after_a_round(name)
    downloads = fed.server.select(2, ALL)
    together = train_together(list(fed.clients.values()), 2, fed.privates, downloads)
    for i, client in fed.clients.items():
        alone = client.train(2, fed.privates[i], downloads[i])
        assert equal(alone.private, together[i].private)
        assert equal(alone.upload.tensors, together[i].upload.tensors)
        assert alone.report.metrics == together[i].report.metrics


def test_evaluation_side_by_side_gives_the_same_as_one_after_the_other(name):
    fed = after_a_round(name)
    downloads = fed.server.select(1, ALL)
    alone = [client.evaluate(1, fed.privates[i], downloads[i]) for i, client in fed.clients.items()]
    assert evaluate_together(list(fed.clients.values()), 1, fed.privates, downloads, Plan((LOCAL,), 0)) == alone


def test_a_model_of_the_server_depends_on_the_download_alone(name):
    fed = after_a_round(name)
    if not isinstance(fed.method, HasServerModel):
        pytest.skip("its server has no model")
    images, download, logits = tiny_examples(fed.world, 8, seed=77).images, fed.download(0), []
    for private in (fed.privates[0], fed.privates[1], fed.clients[2].initial_state()):
        task = tiny_task(fed.world, private, download, fed.examples(0))
        task = replace(task, private=run_alone(fed.world, fed.method.personalize(task), "personalize")).to_predict()
        logits.append(fed.method.predict(replace(task, private=fed.method.server_model(task)), images))
        drawn = task.rng.bit_generator.state != task.to_predict().rng.bit_generator.state
        assert drawn <= fed.method.draws_to_predict
    assert torch.isfinite(logits[0]).all()
    assert all(torch.equal(logits[0], other) for other in logits[1:])


def test_the_order_of_clients_does_not_matter_and_a_repetition_gives_the_same(name):
    cohorts = [[0, 2, 3], ALL]
    backwards = tiny_federation(name).run(cohorts, order=lambda ids: sorted(ids, reverse=True))
    assert backwards.sha256() == tiny_federation(name).run(cohorts).sha256()


@pytest.mark.parametrize("cohorts", [[], [[0, 1], [1, 2]]], ids=str)
def test_who_never_trained_can_be_evaluated(name, cohorts):
    fed = tiny_federation(name).run(cohorts)
    for i in ALL:
        logits = fed.logits(i)
        assert logits.shape == (8, 4)
        assert torch.isfinite(logits).all()
        evaluation = fed.clients[i].evaluate(len(cohorts), fed.privates[i], fed.download(i))
        assert evaluation == fed.clients[i].evaluate(len(cohorts), fed.privates[i], fed.download(i))


def test_uploads_have_the_promised_shapes_and_a_wrong_one_leaves_the_server_as_it_was(name):
    fed = tiny_federation(name).run([ALL])
    trained = fed.clients[1].train(2, fed.privates[1], fed.download(1))
    tensors, promised = trained.upload.tensors, fed.method.uploads(fed.world)
    assert tensors.keys() == promised.keys()
    assert all(promised[key].fits(tensor.shape) for key, tensor in tensors.items())
    assert all(promised[key].dtype == tensor.dtype for key, tensor in tensors.items())
    assert trained.report.uploaded_bytes == trained.upload.num_bytes
    state = fed.server.state
    for key, tensor in tensors.items():
        other = torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor.double()
        for bad in (other, tensor.unsqueeze(0)):
            broken = Message({**tensors, key: bad}, trained.upload.attached)
            assert fed.server.aggregate(2, {1: ClientResult(broken, 8)}).keys() == {1}
            assert fed.server.state is state


def test_an_upload_that_was_altered_gets_the_attachments_that_the_clients_own_has(name):
    fed = after_a_round(name)
    message = fed.clients[1].train(2, fed.privates[1], fed.download(1)).upload
    attaches = isinstance(fed.method, AttachesToUploads)
    attached = fed.method.attachments(fed.world, message.tensors) if attaches else {}
    assert attached.keys() == message.attached.keys()
    for key, tensor in message.attached.items():
        assert torch.allclose(attached[key], tensor, atol=1e-5)


def test_what_a_client_downloads_is_its_own_whoever_else_is_asked_for(name):
    fed = tiny_federation(name, clients=5).run([[0, 1, 2], [1, 4]])
    together = fed.server.select(2, range(5))
    for client in range(5):
        alone = fed.server.select(2, [client])[client]
        assert equal(alone.tensors, together[client].tensors)
        assert equal(alone.attached, together[client].attached)


def test_states_survive_the_wire_and_the_disk(name, tmp_path):
    fed = tiny_federation(name).run([[0, 1, 2]])
    privates = unstack(stack(fed.privates), ALL)
    save_snapshot(tmp_path, Snapshot(fed.server.state, privates, [], []), "x")
    stored = load_snapshot(tmp_path, "x")
    assert state_sha256(stored.server, stored.privates) == fed.sha256()
    assert sorted(stored.privates) == list(ALL)


@pytest.mark.parametrize(
    "layout",
    [{"class_specific_context": True}, {"class_token_position": "middle"}, {"class_token_position": "front"}],
    ids=str,
)
def test_other_layouts_of_a_prompt_run_or_are_refused(name, layout):
    fed = tiny_federation(name, **layout)
    refused = None
    try:
        fed.method.check(fed.world)
    except ConfigError as error:
        refused = str(error)
    if refused:
        assert next(iter(layout)) in refused
    else:
        fed.run([[0, 1, 2], ALL])
        assert all(torch.isfinite(fed.logits(i)).all() for i in ALL)
