"""Looking at a partition before anything is trained on it."""

import json

import pytest

from promptfleet.federation.settings import read_federation_config
from promptfleet.figures.partition_table import partition_summary, partition_table
from promptfleet.tracking.federation_run import partition_counts
from tests.tracking.values import make_result


def test_the_table_has_a_row_per_client():
    table = partition_table(partition_counts(make_result()))
    row = next(line for line in table.splitlines() if line.startswith("│      2"))
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "2",
        "7",
        "2",
        "3",
        "3",
        "zero 5, one 5, two 5",
        "photo 15",
    ]


def test_the_summary_is_over_clients():
    lines = partition_summary(partition_counts(make_result())).splitlines()
    assert lines[1].split() == ["train", "21", "7", "7", "7"]
    assert [line.split()[0] for line in lines[1:]] == ["train", "validation", "test"]


@pytest.mark.slow
def test_print_draw_save_and_use_again(tmp_path, run_here):
    def job(*arguments):
        status, out, _ = run_here("partition.py", *arguments)
        assert status == 0
        return out

    out = job("--set", "clients=5", "--set", "partition.kind=pathological", "--set", "seed=3", "--out", "made")
    assert "digits: 1797 of 1797 samples, 5 clients" in out
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["partition.json", "partition.png"]
    assert (tmp_path / "made" / "partition.png").read_bytes().startswith(b"\x89PNG")
    saved = json.loads((tmp_path / "made" / "partition.json").read_text())
    assert (saved["made_with"]["seed"], saved["made_with"]["partition"]["kind"]) == (3, "pathological")

    again = job("--set", "clients=5", "--set", "partition.file=made/partition.json")
    (fingerprint,) = [line for line in out.splitlines() if line.startswith("fingerprint:")]
    assert fingerprint in again
    config = read_federation_config(None, ["partition.file=made/partition.json"])
    assert fingerprint.split()[1] == config.partition.fingerprint == saved["fingerprint"]
    name = f"digits-file-5-seed0-{saved['fingerprint'][:8]}"
    assert (tmp_path / "results" / "partitions" / name / "partition.json").is_file()

    other = ("--set", "clients=5", "--set", "partition.alpha=0.1", "--out", "made")
    status, _, err = run_here("partition.py", *other)
    assert (status, err.count("\n")) == (2, 1)
    assert "made/partition.json: holds another partition; choose another folder, or give --overwrite" in err
    assert json.loads((tmp_path / "made" / "partition.json").read_text()) == saved
    assert "fingerprint:" in job(*other, "--overwrite")
    assert json.loads((tmp_path / "made" / "partition.json").read_text())["fingerprint"] != saved["fingerprint"]
