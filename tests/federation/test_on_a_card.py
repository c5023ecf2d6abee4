"""A client's update on a card: everything it uses is there before the first step, and no step waits or copies."""

import pytest
import torch

from promptfleet.federation.client import train_together
from promptfleet.federation.server import Server
from promptfleet.methods import METHODS, config_class, load_method
from promptfleet.methods.parts.optimizers import SGD
from tests.fakes import tiny_client, tiny_clip, tiny_world
from tests.pretended_card import CARD, Card
from tests.tiny_federation import equal

CLIENTS = range(2)
QUICK = {name: {"transport_iterations": 3} for name in ("fedotp", "dualpt")}


def second_round(name: str, device: torch.device, epochs: int):
    """Return what two clients give on ``device`` after a round on the CPU, and what a card counts meanwhile."""
    config = {
        "method": name,
        "clients": 2,
        "prompt_length": 2,
        "rounds": 9,
        "local_epochs": epochs,
        **QUICK.get(name, {}),
    }
    world = tiny_world(config_class=config_class(name), clip=tiny_clip(layers=1), **config)
    method = load_method(name)
    server, here = Server(method, world), [tiny_client(client, method, world) for client in CLIENTS]
    downloads = server.select(1, CLIENTS)
    first = train_together(here, 1, {client.id: client.initial_state() for client in here}, downloads)
    server.aggregate(1, first)
    privates, downloads = {client: one.private for client, one in first.items()}, server.select(2, CLIENTS)
    with Card() as card:
        there = world.to(device)
        same = Server(method, there)  # a server with a share of the card: its state is still the CPU's
        same.aggregate(1, first)
        assert equal(same.state, server.state)
        clients = [tiny_client(client, method, there) for client in CLIENTS]
        assert all(equal(client.initial_state(), here[client.id].initial_state()) for client in clients)
        card.counts.clear()
        trained = train_together(clients, 2, privates, downloads)
        training = dict(card.counts)
        card.counts.clear()
        evaluations = [client.evaluate(2, privates[client.id], downloads[client.id]) for client in clients]
        return trained, evaluations, training, dict(card.counts)


@pytest.mark.parametrize(
    "name", [name if name == "pfedmoap" else pytest.param(name, marks=pytest.mark.slow) for name in sorted(METHODS)]
)
def test_copies_and_reads_of_an_update_do_not_grow_with_its_steps(name):
    few, many = (second_round(name, CARD, epochs) for epochs in (1, 2))
    assert few[2] == many[2]
    trained, evaluations, *counts = second_round(name, torch.device("cpu"), epochs=2)
    assert counts == [{}, {}]
    assert many[1] == evaluations
    for client in CLIENTS:
        assert equal(many[0][client].private, trained[client].private)
        assert equal(many[0][client].upload.tensors, trained[client].upload.tensors)
        assert many[0][client].report.metrics == trained[client].report.metrics


def test_a_step_that_reads_a_number_is_noticed(monkeypatch):
    monkeypatch.setattr(
        SGD,
        "step",
        lambda self, step=SGD.step: (float(next(iter(self.parameters.values())).detach().sum()), step(self)),
    )
    few, many = (second_round("promptfl", CARD, epochs)[2] for epochs in (1, 2))
    steps = 2 + 2  # of two clients, with 6 and 8 examples in batches of 4
    assert many["reads"] - few["reads"] == steps


def test_the_card_counts_copies_and_refuses_two_devices():
    rows, here = torch.arange(6.0).view(3, 2), torch.tensor([2, 0])
    with Card() as card:
        there = rows.to(CARD)
        assert card.counts == {"to the card": 1}
        assert there[here].tolist() == [[4, 5], [0, 1]]
        assert card.counts == {"to the card": 2, "to the CPU": 1}
        assert (there.sum() + torch.ones(())).item() == 16
        assert bool(there.any())
        assert card.counts == {"to the card": 2, "to the CPU": 1, "reads": 2}
        with pytest.raises(RuntimeError, match=r"aten::add: expected all tensors to be on the same device"):
            there + rows
