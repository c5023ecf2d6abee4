"""Leave one domain out: no client has it, and all models are tested on it."""

from dataclasses import replace

import numpy as np
import pytest

from promptfleet.errors import ConfigError
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.prepare import Prepared
from promptfleet.federation.rounds import Federation

LEFT_OUT = 1


@pytest.fixture
def run(small_config, prepared, monkeypatch):
    """Run a federation on digits in three made-up domains, with given features of all images."""
    store, names = prepared.open_store(), ("pen", "brush", "chalk")
    store = replace(store, domains=np.arange(len(store.labels)) % 3)

    def run(features=store.features, **values):
        monkeypatch.setattr(Prepared, "open_store", lambda self: replace(store, features=features))
        partition = {"kind": "domain", "held_out_domain": "brush", "shots": 4}
        common = {"method": "promptfl", "partition": partition, "runtime": {"backend": "local"}, "prompt_lr": 0.1}
        config, mine = small_config(**{**common, **values}), replace(prepared, domain_names=names)
        federation = Federation(config, mine, LocalFleet(mine))
        while federation.rounds_done < config.rounds:
            federation.run_round()
        return federation.result()

    run.store = store
    return run


def test_clients_and_the_server_are_tested_on_all_of_the_domain(run, prepared):
    result, zero_shot = run(), run(method="zero_shot")
    assert all(client.domain_counts[LEFT_OUT] == 0 for client in result.clients)
    one_model = result.accuracy["test/unseen_domain"]
    assert one_model.std == 0
    assert run(evaluation={"sets": {"unseen_domain": "never"}}).state_sha256 == result.state_sha256
    assert result.accuracy["test/unseen_domain_server"].mean == one_model.min
    assert result.accuracy["test/unseen_domain_server"].clients == 1
    assert "test/unseen_domain_server" not in result.clients[0].accuracy
    assert "val/unseen_domain" not in result.accuracy
    among = run.store.domains == LEFT_OUT
    logits = run.store.features[among] @ prepared.clip.zero_shot_text.numpy().T
    expected = (logits.argmax(axis=1) == run.store.labels[among]).mean()
    assert zero_shot.accuracy["test/unseen_domain"].mean == pytest.approx(expected)
    assert result.zero_shot["test/unseen_domain"].mean == pytest.approx(expected)


@pytest.mark.parametrize("method", ["pfedmoap", "linear_probe"])
def test_nothing_else_depends_on_images_of_the_domain(run, method):
    noise = np.random.default_rng(0).normal(size=run.store.features.shape).astype(np.float32)
    features = np.where(run.store.domains[:, None] == LEFT_OUT, noise, run.store.features)
    real, noisy = run(method=method), run(features, method=method)
    assert real.state_sha256 == noisy.state_sha256
    assert real.best_round == noisy.best_round
    for one, other in zip(real.rounds, noisy.rounds, strict=True):
        changed = {name for name, accuracy in one.accuracy.items() if other.accuracy[name] != accuracy}
        assert changed == {"test/unseen_domain"} & one.accuracy.keys()
        assert one.train_metrics == other.train_metrics


def test_the_set_is_refused_without_the_domain(small_config):
    with pytest.raises(ConfigError, match=r"evaluation\.sets\.unseen_domain=each needs partition\.held_out_domain$"):
        small_config(evaluation={"sets": {"unseen_domain": "each"}})
