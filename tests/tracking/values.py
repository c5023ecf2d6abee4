"""Small made-up federations: numbers that can be checked by eye."""

import torch

from promptfleet.federation.reports import ClientReport, FederationResult, RoundReport, TrainReport
from promptfleet.federation.settings import federation_config
from promptfleet.methods.parts.states import state_sha256
from tests.federation.scores import evaluation

CLASS_NAMES = ["zero", "one", "two"]
LABEL_COUNTS = [[10, 0, 2], [0, 8, 1], [5, 5, 5]]
DOMAIN_NAMES = ["photo", "sketch"]
DOMAIN_COUNTS = [[12, 0], [0, 9], [15, 0]]
DOMAIN_LABEL_COUNTS = [[15, 5, 7], [0, 8, 1]]
# Client 2 has never had an expert.
EXPERTS = [[2, 1], [0], []]
GATE_WEIGHTS = [[0.5, 0.3, 0.2], [0.75, 0.25], []]


def make_config(**values):
    return federation_config({"clients": 3, "rounds": 3, "experts": 2, "runtime": {"backend": "local"}, **values})


def make_report(round_index, *, loss=1.5, events=()):
    """Three clients, of which 0 and 2 train; validation 0.1 r, 0.2 r, 0.3 r and test half of that in round r."""
    evaluations = [evaluation(client, 0.1 * (client + 1) * round_index, 0.05 * (client + 1)) for client in range(3)]
    metrics = {} if loss is None else {"loss": loss}
    trained = [TrainReport(metrics=metrics, downloaded_bytes=100, uploaded_bytes=10, seconds=0.1) for _ in range(2)]
    return RoundReport.of(
        round_index, [0, 2], trained, {2: "NaN in context"}, evaluations, seconds=2.0 + round_index, events=events
    )


def make_result(config=None, *, rounds=3, described=True, events=()):
    config = config or make_config()
    reports = [make_report(round_index, events=events) for round_index in range(1, rounds + 1)]
    clients = [
        ClientReport(
            id=client,
            num_train=7,
            num_val=2,
            num_test=3,
            val_accuracy=reports[-1].client_val_accuracy[client],
            test_accuracy=reports[-1].client_test_accuracy[client],
            zero_shot_accuracy=0.25,
            label_counts=LABEL_COUNTS[client],
            domain_counts=DOMAIN_COUNTS[client],
            described={"experts": EXPERTS[client], "gate_weights": GATE_WEIGHTS[client]} if described else {},
        )
        for client in range(3)
    ]
    context = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    server = {"context": context, "round": torch.tensor(rounds)}
    privates = {
        client: {
            "context": context,
            "gate.query.weight": torch.full((2, 2), client / 3),
            "gate_ready": torch.tensor(True),
        }
        for client in (2, 0, 1)
    }
    return FederationResult(
        config=config.to_dict(),
        seed=config.seed,
        method=config.method,
        dataset=config.dataset,
        class_names=CLASS_NAMES,
        domain_names=DOMAIN_NAMES,
        domain_label_counts=DOMAIN_LABEL_COUNTS,
        partition_sha256="0" * 64,
        trained_parameters=6,
        rounds=reports,
        clients=clients,
        val_accuracy=reports[-1].val_accuracy,
        test_accuracy=reports[-1].test_accuracy,
        zero_shot_accuracy=0.25,
        adversaries=[],
        honest_val_accuracy=reports[-1].honest_val_accuracy,
        honest_test_accuracy=reports[-1].honest_test_accuracy,
        noise_multiplier=None,
        epsilon_spent=None,
        best_round=rounds,
        best_round_test_accuracy=reports[-1].test_accuracy,
        state_sha256=state_sha256(server, privates),
        seconds=12.0,
        checkpoint_bytes=4096,
        checkpoint_seconds=0.25,
        accuracy=reports[-1].accuracy,
        best_round_accuracy=reports[-1].accuracy,
        server=server,
        privates=privates,
    )
