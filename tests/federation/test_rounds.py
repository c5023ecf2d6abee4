"""The order of a round: what the fleet is asked for, and when."""

import pytest

from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.rounds import Federation


class Noting(LocalFleet):
    """Notes each step of a round with its clients."""

    def __init__(self, prepared):
        super().__init__(prepared)
        self.steps = []

    def select(self, round_index, cohort, purpose="train"):
        self.steps.append((f"select {purpose} {round_index}", sorted(cohort)))
        return super().select(round_index, cohort, purpose)

    def train(self, round_index, privates, downloads):
        self.steps.append((f"train {round_index}", sorted(privates)))
        return super().train(round_index, privates, downloads)

    def aggregate(self, round_index, uploads):
        self.steps.append((f"aggregate {round_index}", sorted(uploads)))
        super().aggregate(round_index, uploads)

    def evaluate(self, round_index, privates, downloads, plan):
        self.steps.append((f"evaluate {round_index}", sorted(privates)))
        return super().evaluate(round_index, privates, downloads, plan)


@pytest.fixture
def run(small_config, prepared):
    def run(**values):
        fleet = Noting(prepared)
        config = small_config(runtime={"backend": "local"}, **values)
        federation = Federation(config, prepared, fleet)
        while federation.rounds_done < config.rounds:
            federation.run_round()
        fleet.close()
        return federation, fleet.steps

    return run


def test_the_server_selects_for_the_next_cohort_before_clients_are_evaluated(run):
    federation, steps = run()
    (first, second), everyone = (report.cohort for report in federation.reports), [0, 1, 2]
    assert steps == [
        ("select train 1", first),
        ("train 1", first),
        ("aggregate 1", first),
        ("select evaluate 1", everyone),
        ("select train 2", second),
        ("evaluate 1", everyone),
        ("evaluate 1", everyone),  # on further sets, since no round before was better
        ("train 2", second),
        ("aggregate 2", second),
        ("select evaluate 2", everyone),
        ("evaluate 2", everyone),
    ]


def test_clients_whose_upload_is_rejected_are_evaluated_again_with_the_state_they_had(run):
    federation, steps = run(rounds=1, max_upload_norm=1e-6)
    assert sorted(federation.reports[0].rejected) == federation.reports[0].cohort
    assert steps[-2:] == [("evaluate 1", [0, 1, 2]), ("evaluate 1", federation.reports[0].cohort)]
    assert federation.result().state_sha256 != run(rounds=1)[0].result().state_sha256
