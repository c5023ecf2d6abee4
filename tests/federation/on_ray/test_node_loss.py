"""A node that goes down with everything on it: processes, and states that lie nowhere else."""

import subprocess
import sys

import pytest

from promptfleet.errors import FederationError
from promptfleet.federation.checkpoints.folder import FederationFolder
from promptfleet.federation.failures import StatesLost
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.recovery import run_next_round
from promptfleet.federation.rounds import Federation


class Lossy(LocalFleet):
    """Loses its states in the evaluation of round 3, as often as it is told to."""

    losses = 0

    def evaluate(self, round_index, privates, downloads, plan):
        if round_index == 3 and self.losses:
            self.losses -= 1
            raise StatesLost("states of clients [1] were lost with their node")
        return super().evaluate(round_index, privates, downloads, plan)


@pytest.fixture
def begin(small_config, prepared, tmp_path):
    def begin(fleet):
        faulty = {"method": "tests.faulty:Faulty", "faults_folder": str(tmp_path), "rounds": 4}
        return Federation(small_config(**faulty, runtime={"backend": "local", "retries": 2}), prepared, fleet)

    return begin


@pytest.mark.parametrize(("kept", "first"), [(True, 3), (False, 1)])
def test_lost_states_are_computed_again_from_what_was_kept(begin, prepared, tmp_path, kept, first):
    wanted = begin(LocalFleet(prepared))
    fleet = Lossy(prepared)
    federation = begin(fleet)
    fleet.losses = 2
    stored = FederationFolder(tmp_path / "out", federation)
    for _ in range(4):
        wanted.run_round()
        report = run_next_round(federation, stored.newest if kept else lambda: None)
        stored.save()
        assert federation.rounds_done == report.round
    stored.flush()
    assert federation.result().state_sha256 == wanted.result().state_sha256
    assert federation.result().clients == wanted.result().clients
    events = [(e.stage, e.what, e.action) for one in federation.reports for e in one.events]
    lost = ("states", "states of clients [1] were lost with their node", f"computed again from round {first} on")
    assert events == [lost, lost]


def test_lost_again_and_again_it_ends(begin, prepared):
    fleet = Lossy(prepared)
    federation = begin(fleet)
    fleet.losses = 3
    for _ in range(2):
        run_next_round(federation, lambda: None)
    with pytest.raises(FederationError, match="were lost with their node"):
        run_next_round(federation, lambda: None)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_that_was_on_a_lost_node_is_done_again_on_another(root, tmp_path, storage):
    command = [sys.executable, "-m", "tests.federation.node_loss", str(tmp_path), storage]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "its process died; done again" in done.stdout
    assert "were lost with their node; computed again from round 1 on" in done.stdout
