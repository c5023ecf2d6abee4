"""A trial that counts to three, and dies if a folder says so: Ray Tune's view of one, without a federation.

Its process starts again after each death, so it imports nothing that takes long.
"""

import os
import signal
import threading
import time
from pathlib import Path

from ray import tune

from promptfleet.errors import StorageError
from promptfleet.federation.failures import CodeFails

ROUNDS = 3


def order(folder, stage, number, moment, fault="kill", times=1):
    """Have ``fault`` happen ``times`` times to that trial: when it begins, or in a round such as ``2``."""
    for index in range(times):
        (Path(folder) / f"{stage}-{number}-{moment}.{index}").write_text(fault)


class NoShares:
    """Plan of a trial that needs nothing but its own process."""

    def __init__(self, *arguments, **options):
        self.client_actors = 0

    def bundles(self):
        return [{"CPU": 0.1}]


class Mortal(tune.Trainable):
    """Keeps its rounds in its folder, as a federation does."""

    def setup(self, config, frozen, plan):
        self._begin(config)

    def reset_config(self, new_config):
        self._begin(new_config)
        return True

    def step(self):
        done = self._told = self._told + 1
        self._suffer(done)
        self._saved.write_text(str(max(done, int(self._saved.read_text()))))
        return {"round": done, "rounds": ROUNDS, "val_accuracy": done / 10, "report": {}, "done": done == ROUNDS}

    def _begin(self, config):
        folder = Path(config["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        self._saved, self._orders = folder / "rounds", folder.parents[2]
        self._name = f"{config['stage']}-{config['trial_number']}"
        if not self._saved.exists():
            self._saved.write_text("0")
        self._told = min(config["settled_rounds"], int(self._saved.read_text()))
        self._suffer("begin")

    def _suffer(self, moment):
        for path in sorted(self._orders.glob(f"{self._name}-{moment}.*")):
            fault = path.read_text()
            path.unlink()
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "raise":
                raise ValueError("a fault was ordered")
            if fault == "client fails":
                raise CodeFails("train: client 1: raised ValueError, 4 times in a row")
            if fault == "disk refuses":
                raise StorageError("round-000001.safetensors: cannot be read (Input/output error)")
            if fault == "kill soon":
                threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
            if fault == "late":
                time.sleep(3.0)
            while fault == "wait" and len(list(self._saved.parents[1].glob("*/rounds"))) < 2:  # for another trial
                time.sleep(0.05)
            return
