"""The same federation, bit for bit, wherever it runs."""

import json

import pytest
import torch

import promptfleet
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.reports import summary_from_json
from promptfleet.federation.rounds import Federation


def run_locally(config, prepared):
    fleet = LocalFleet(prepared)
    federation = Federation(config, prepared, fleet)
    while federation.rounds_done < config.rounds:
        federation.run_round()
    fleet.close()
    return federation.result()


@pytest.fixture(scope="module")
def local_result(few_shot_config, prepared):
    return run_locally(few_shot_config(), prepared)


@pytest.mark.ray
def test_actors_give_bitwise_the_local_result(ray_session, few_shot_config, local_result):
    result = promptfleet.run_federation(few_shot_config(runtime={"backend": "ray"}))
    assert result.state_sha256 == local_result.state_sha256
    assert [c.test_accuracy for c in result.clients] == [c.test_accuracy for c in local_result.clients]
    assert [r.client_val_accuracy for r in result.rounds] == [r.client_val_accuracy for r in local_result.rounds]
    assert [r.uploaded_bytes for r in result.rounds] == [r.uploaded_bytes for r in local_result.rounds]
    for name, tensor in local_result.server.items():
        assert torch.equal(result.server[name], tensor), name


def test_the_seed_decides(few_shot_config, prepared, local_result):
    assert run_locally(few_shot_config(), prepared).state_sha256 == local_result.state_sha256
    assert run_locally(few_shot_config(seed=1), prepared).state_sha256 != local_result.state_sha256


def test_bytes_are_those_of_the_real_protocol(local_result):
    prompt = 4 * local_result.server["context"].numel()
    first, second = local_result.rounds
    assert len(first.cohort) == len(second.cohort) == 2
    assert first.uploaded_bytes == 2 * prompt
    assert first.downloaded_bytes == 2 * prompt  # the pool is empty: the global prompt and no experts
    returning = set(first.cohort) & set(second.cohort)
    assert second.downloaded_bytes == (2 + len(returning)) * prompt  # one other expert for who has been there before


def test_the_result_as_json_has_the_promised_keys(local_result):
    values = json.loads(local_result.to_json())
    promised = {"config", "seed", "method", "dataset", "rounds", "clients", "val_accuracy", "test_accuracy"}
    assert promised | {"state_sha256"} <= values.keys()
    assert values["clients"][2].keys() >= {"id", "num_train", "num_val", "num_test", "val_accuracy", "test_accuracy"}
    assert values["test_accuracy"] == pytest.approx(sum(c["test_accuracy"] for c in values["clients"]) / 3)
    assert summary_from_json(local_result.to_json()).to_json() == local_result.to_json()


def test_everybody_is_evaluated_also_who_never_trained(few_shot_config, prepared):
    result = run_locally(few_shot_config(rounds=1, participation=0.1), prepared)
    assert len(result.rounds[0].cohort) == 1
    (trained,) = result.rounds[0].cohort
    flags = [int(result.privates[client]["participations"]) for client in range(3)]
    assert flags == [int(client == trained) for client in range(3)]
    assert all(0 <= client.test_accuracy <= 1 for client in result.clients)


def test_threads_are_given_back(few_shot_config, prepared):
    torch.set_num_threads(2)
    try:
        run_locally(few_shot_config(rounds=1), prepared)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
