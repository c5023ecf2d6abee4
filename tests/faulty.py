"""A federated method that misbehaves where a folder says so, and otherwise learns something quick and reproducible."""

import os
import signal
import time
from pathlib import Path

import torch

from promptfleet.config import FederationConfig
from promptfleet.methods.protocol import Message, Method, Spec, Update


def order(folder, stage, round_index, fault, *, client=None, times=1):
    """Have ``fault`` happen ``times`` times in that stage of that round, to that client or to the server."""
    for number in range(times):
        (Path(folder) / f"{stage}-{round_index}-{client}.{number}").write_text(fault)


class FaultyConfig(FederationConfig):
    faults_folder: str
    width: int = 3  # of the context, which has two rows


class Faulty(Method):
    """The context drifts by noise that each client draws, and a client remembers the sum of all it ever drew."""

    Config = FaultyConfig

    def init_server(self, world, rng):
        return {"context": torch.zeros(_shape(world)), "round": torch.tensor(0)}

    def init_client(self, world, client, rng):
        drawn = torch.tensor(rng.normal(size=_shape(world)))
        return {"drawn": drawn, "id": torch.tensor(client), "round": torch.tensor(0)}

    def select(self, server, call):
        suffer(call.world, "select", int(server["round"]) + 1, None)
        noise = torch.tensor(call.shared_rng.normal(size=_shape(call.world)), dtype=torch.float32)
        return call.to_all(Message({"context": server["context"], "noise": noise, "round": server["round"]}))

    def local_update(self, task):
        world, private, sent = task.world, task.private, task.download.tensors
        client, now = int(private["id"]), int(sent["round"]) + 1
        fault = suffer(world, "train", now, client)
        drawn = torch.tensor(task.rng.normal(size=_shape(world))) * len(task.train)
        context = sent["context"] * 0.5 + drawn.float() + sent["noise"]
        uploads = {
            "nan": context * float("nan"),
            "inf": context.index_fill(0, torch.tensor([0]), float("inf")),
            "shape": context[:1],
            "dtype": context.double(),
            "huge": context * 1e9,
        }
        private = {**private, "drawn": private["drawn"] + drawn, "round": torch.tensor(now)}
        suffer(world, "trained", now, client)
        return Update(private, Message({"context": uploads.get(fault, context)}), {"loss": float(drawn.sum())})

    def uploads(self, world):
        return {"context": Spec(_shape(world))}

    def aggregate(self, server, arrived):
        now = int(server["round"]) + 1
        suffer(arrived.world, "aggregate", now, None)
        counts = arrived.num_examples
        context = sum(tensor * counts[client] for client, tensor in arrived.sent("context").items())
        return {"context": context / sum(counts.values()), "round": torch.tensor(now)}

    def predict(self, task, images):
        private, sent = task.private, task.download.tensors
        suffer(task.world, "evaluate", int(sent["round"]), int(private["id"]))
        weights = (private["drawn"].float() + sent["context"])[:, :3].reshape(-1)
        return images.features[:, : len(weights)] * weights @ torch.ones(len(weights), len(task.world.class_names))


def _shape(world):
    return (2, world.config.width)


def suffer(world, stage, round_index, client):
    """Take one fault of this place and moment, if any is left; returns those that are the method's own to commit."""
    for path in sorted(Path(world.config.faults_folder).glob(f"{stage}-{round_index}-{client}.*")):
        try:
            fault = path.read_text()
            path.unlink()
        except FileNotFoundError:
            continue
        if fault == "late kill":
            time.sleep(1.0)  # the answers of earlier calls have arrived by then
        if fault in ("kill", "late kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if fault in ("hang", "late"):
            time.sleep(600 if fault == "hang" else 0.5)
        if fault == "raise":
            raise ValueError("a fault was ordered")
        return fault
    return None
