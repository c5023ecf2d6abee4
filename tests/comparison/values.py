"""Made-up federations of three clients for comparisons."""

from dataclasses import replace

from promptfleet.federation.reports import FederationSummary, summary_from_json
from promptfleet.federation.settings import federation_config
from tests.tracking.values import make_result


def make_summary(accuracies, *, seed=0, **config) -> FederationSummary:
    """Three clients with these test accuracies after the last of three rounds."""
    summary = summary_from_json(
        make_result(federation_config({"clients": 3, "rounds": 3, "seed": seed, **config})).to_json()
    )
    clients = [replace(client, test_accuracy=value) for client, value in zip(summary.clients, accuracies, strict=True)]
    return replace(summary, clients=clients, test_accuracy=sum(accuracies) / 3)
