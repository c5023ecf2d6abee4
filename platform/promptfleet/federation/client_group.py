"""Group of clients in one process: all of them in the local fleet, ``runtime.clients_per_actor`` in an actor."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from promptfleet.data.client_split import ClientSplit
from promptfleet.data.feature_store import FeatureStore
from promptfleet.federation.client import Client, ClientResult, evaluate_together, train_together
from promptfleet.federation.client_examples import examples_of, pixel_reader_for
from promptfleet.federation.evaluation.foreign_sets import ForeignSet
from promptfleet.federation.evaluation.personalized import Personalized
from promptfleet.federation.evaluation.schedule import Plan
from promptfleet.federation.evaluation.scores import Evaluation
from promptfleet.federation.evaluation.shared_sets import Read, SharedParts, SharedSets
from promptfleet.federation.gpu_memory import explaining_full_memory
from promptfleet.methods import load_method
from promptfleet.methods.parts.side_by_side import side_by_side
from promptfleet.methods.protocol import Message, State, World


class ClientGroup:
    """Clients by id, which share one world. All mappings go by client id.

    ``everyone`` has the held-out parts of all clients of the federation, hosted here or not; ``foreign`` are the sets
    of classes that no client has.
    """

    def __init__(
        self,
        world: World,
        store: FeatureStore,
        splits: Mapping[int, ClientSplit],
        everyone: SharedParts,
        foreign: Sequence[ForeignSet] = (),
    ):
        self._world, self._store = world, store
        self._method = method = load_method(world.config.method)
        self._read_pixels = pixel_reader_for(method.needs_of(world.config), world, store)
        read = self._reader(world, store)
        readers = [(one, read if one.store is store else self._reader(one.world, one.store)) for one in foreign]
        self._shared = SharedSets(method, everyone, read, readers)
        self._clients: dict[int, Client] = {}
        self._personalized = Personalized()
        self.host(splits)

    def host(self, splits: Mapping[int, ClientSplit]) -> None:
        """Host these clients, too."""
        for client, split in splits.items():
            if client not in self._clients:
                self._clients[client] = Client(client, self._method, self._world, self._store, split, self._read_pixels)

    def initial_states(self, clients: Iterable[int]) -> dict[int, State]:
        """Return private states before the first training."""
        return {client: self._clients[client].initial_state() for client in clients}

    def train(
        self, round_index: int, privates: Mapping[int, State], downloads: Mapping[int, Message]
    ) -> dict[int, ClientResult]:
        """Run local updates of the clients that have a download, side by side if ``runtime.batch_steps`` says so."""
        clients = [self._clients[client] for client in downloads]
        together = self._world.config.runtime.batch_steps
        with explaining_full_memory(min(len(clients), side_by_side(self._world)) if together else 1):
            if together:
                return train_together(clients, round_index, privates, downloads)
            return {
                client.id: client.train(round_index, privates[client.id], downloads[client.id]) for client in clients
            }

    def evaluate(
        self, round_index: int, privates: Mapping[int, State], downloads: Mapping[int, Message], plan: Plan
    ) -> list[Evaluation]:
        """Evaluate the clients that have a download as ``plan`` says, personalized as ``train`` trains."""
        clients = [self._clients[client] for client in downloads]
        together = self._world.config.runtime.batch_steps
        groups = [clients] if together else [[client] for client in clients]
        with explaining_full_memory(min(len(clients), side_by_side(self._world)) if together else 1):
            return [
                evaluation
                for group in groups
                for evaluation in evaluate_together(
                    group, round_index, privates, downloads, plan, self._shared, self._personalized
                )
            ]

    def _reader(self, world: World, store: FeatureStore) -> Read:
        """Return the function that reads samples of a store by their indices."""
        needs = self._method.needs_of(world.config)
        pixels = self._read_pixels if store is self._store else pixel_reader_for(needs, world, store)
        return partial(examples_of, store, needs=needs, device=world.device, read_pixels=pixels)
