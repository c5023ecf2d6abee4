import pytest
import torch

from promptfleet.errors import ConfigError
from promptfleet.federation.client import train_together
from promptfleet.federation.server import Server
from promptfleet.methods import METHODS, config_class, load_method
from promptfleet.methods.parts.optimizers import Optimizer
from promptfleet.methods.pfedmoap import PFedMoAP, PFedMoAPConfig
from promptfleet.methods.promptfl import PromptFL
from promptfleet.methods.protocol import AttachesToUploads, Describes, ExcludesClients, KeepsRows, Message
from tests.fakes import tiny_client, tiny_world


def test_a_mask_counts_a_bit_per_entry_and_other_tensors_their_bytes():
    sizes = [(torch.ones(32, 32, dtype=torch.bool), 128), (torch.ones(9, dtype=torch.bool), 2), (torch.ones(3), 12)]
    for tensor, size in [*sizes, (torch.arange(2), 16)]:
        assert Message({"tensor": tensor}, {"attached": torch.ones(5)}).num_bytes == size


def test_a_method_brings_its_configuration():
    assert isinstance(load_method("pfedmoap"), PFedMoAP)
    assert config_class("pfedmoap") is PFedMoAPConfig


def test_a_method_has_the_capabilities_whose_functions_it_has():
    class Excluding(PromptFL):
        def excluded(self, world, server):
            return {1: "it is odd"}

    world, capabilities = tiny_world(), (Describes, AttachesToUploads, ExcludesClients, KeepsRows)
    for method, wanted in ((PFedMoAP(), capabilities), (PromptFL(), ()), (Excluding(), (ExcludesClients,))):
        assert tuple(one for one in capabilities if isinstance(method, one)) == wanted
    assert Server(Excluding(), world).excluded() == {1: "it is odd"}
    assert Server(PromptFL(), world).excluded() == {}


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match=r"^unknown method 'pfedmap'; did you mean 'pfedmoap'\?$"):
        load_method("pfedmap")


@pytest.fixture
def trained(monkeypatch):
    """Return how many numbers each optimizer got since its start."""
    given, init = [], Optimizer.__init__

    def count(self, parameters, **options):
        given.append(sum(parameter.numel() for parameter in parameters.values()))
        init(self, parameters, **options)

    monkeypatch.setattr(Optimizer, "__init__", count)
    return given


# the optimizer of dispfl also gets entries outside of the mask, and an anchor of fedjets trains one of K experts;
# local prompts of fedpha have different lengths, of which the longest counts; fedabml adapts a copy in each step, too
@pytest.mark.parametrize("name", sorted(set(METHODS) - {"dispfl", "fedabml", "fedjets", "fedpha"}))
def test_what_a_method_says_it_trains_is_what_its_optimizers_get(name, trained):
    method = load_method(name)
    world = tiny_world(config_class=method.Config, method=name)
    clients = [tiny_client(client, method, world) for client in range(world.config.clients)]
    server = Server(method, world)
    privates = {client.id: client.initial_state() for client in clients}
    for round_index in (1, 2):  # experts are there from round 2 on
        trained.clear()
        downloads = server.select(round_index, range(len(clients)))
        results = train_together(clients, round_index, privates, downloads)
        assert server.aggregate(round_index, results) == {}
        privates = {client: result.private for client, result in results.items()}
    assert sum(trained) == len(clients) * method.trained_parameters(world)
