"""pFedMoAP whose server dies where a folder says so, after a round's rows are on disk and before its state is known."""

from promptfleet.methods.pfedmoap import PFedMoAP, PFedMoAPConfig
from tests.faulty import suffer


class FaultyPoolConfig(PFedMoAPConfig):
    faults_folder: str


class FaultyPool(PFedMoAP):
    Config = FaultyPoolConfig

    def aggregate(self, server, arrived):
        state = super().aggregate(server, arrived)
        suffer(arrived.world, "aggregated", arrived.round, None)
        return state
