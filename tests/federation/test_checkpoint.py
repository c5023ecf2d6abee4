"""A federation that was saved goes on as if it had not been interrupted; a bad file is refused."""

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from promptfleet.errors import DataError
from promptfleet.federation.checkpoint import FILE, load_snapshot, save_snapshot
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.rounds import Federation
from promptfleet.federation.state import state_sha256
from promptfleet.federation.stored import load_result, load_summary, save_federation


def begin(config, prepared):
    return Federation(config, prepared, LocalFleet(prepared))


def test_restored_after_any_round_equals_undisturbed(small_config, prepared, tmp_path):
    config = small_config(rounds=3)
    undisturbed = begin(config, prepared)
    for round_index in range(1, 4):
        undisturbed.run_round()
        save_snapshot(tmp_path / str(round_index), undisturbed.snapshot(), config.fingerprint())
    wanted = undisturbed.result()

    for round_index in range(1, 4):
        again = begin(config, prepared)
        again.restore(load_snapshot(tmp_path / str(round_index), config.fingerprint()))
        assert again.rounds_done == round_index
        while again.rounds_done < 3:
            again.run_round()
        result = again.result()
        assert result.state_sha256 == wanted.state_sha256
        assert result.clients == wanted.clients
        assert [r.client_test_accuracy for r in result.rounds] == [r.client_test_accuracy for r in wanted.rounds]


def test_the_stored_result_is_the_federations(small_config, prepared, tmp_path):
    config = small_config(rounds=1)
    federation = begin(config, prepared)
    assert load_result(tmp_path, config.fingerprint()) is None
    assert load_summary(tmp_path, config.fingerprint()) is None
    federation.run_round()
    save_federation(tmp_path, federation)
    stored = load_result(tmp_path, config.fingerprint())
    assert stored.to_json() == federation.result().to_json()
    assert state_sha256(stored.server, stored.privates) == stored.state_sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, "result.json"]


def test_the_summary_needs_no_checkpoint(small_config, prepared, tmp_path):
    config = small_config(rounds=1)
    federation = begin(config, prepared)
    federation.run_round()
    save_federation(tmp_path, federation)
    (tmp_path / FILE).unlink()
    assert load_summary(tmp_path, config.fingerprint()).to_json() == federation.result().to_json()
    with pytest.raises(DataError, match=r"result\.json: the result of a federation with another configuration"):
        load_summary(tmp_path, small_config(rounds=1, seed=9).fingerprint())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"rounds": 3}', b"\xff"])
def test_a_damaged_result_is_refused(tmp_path, content):
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(DataError, match=r"result\.json: damaged"):
        load_summary(tmp_path, "x")


def test_another_configuration_is_refused(small_config, prepared, tmp_path):
    federation = begin(small_config(rounds=1), prepared)
    federation.run_round()
    save_snapshot(tmp_path, federation.snapshot(), small_config(rounds=1).fingerprint())
    with pytest.raises(DataError, match="another configuration"):
        load_snapshot(tmp_path, small_config(rounds=1, seed=9).fingerprint())


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(small_config, prepared, tmp_path, keep):
    federation = begin(small_config(rounds=1), prepared)
    federation.run_round()
    path = save_snapshot(tmp_path, federation.snapshot(), "x")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="damaged"):
        load_snapshot(tmp_path, "x")


def test_another_version_is_refused(small_config, prepared, tmp_path):
    federation = begin(small_config(rounds=1), prepared)
    federation.run_round()
    path = save_snapshot(tmp_path, federation.snapshot(), "x")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, {**metadata, "version": "1"})
    with pytest.raises(DataError, match="checkpoint version 1, this promptfleet reads 2"):
        load_snapshot(tmp_path, "x")
