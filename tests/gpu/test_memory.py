"""Memory of the card: rounds leave nothing behind."""

from contextlib import closing

import pytest
import torch

from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.rounds import Federation

pytestmark = pytest.mark.gpu


def test_allocated_memory_does_not_grow_from_round_2_to_round_20(card, digits_config, prepared):
    config = digits_config(rounds=20, participation=1.0)
    allocated = []
    with closing(LocalFleet(prepared)) as fleet:
        federation = Federation(config, prepared, fleet)
        while federation.rounds_done < config.rounds:
            federation.run_round()
            torch.cuda.synchronize(card)
            allocated.append(torch.cuda.memory_allocated(card))
    assert allocated[0] > 0
    assert max(allocated[1:]) == allocated[1], allocated
