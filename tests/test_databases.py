"""Addresses of databases under folders of any name."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from promptfleet.databases import sqlite_address
from promptfleet.errors import ConfigError


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1))
def test_an_address_leads_back_to_its_file_and_names_no_folder(name):
    file = Path("/results") / name / "mlflow.db"
    address = sqlite_address(file)
    assert make_url(address).database == str(file)
    assert "/" not in address.removeprefix("sqlite:///"), "MLflow would make that folder"
    assert address.format() == address, "Optuna formats its address"


def test_a_name_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="its name is not UTF-8"):
        sqlite_address(tmp_path / "caf\udce9" / "mlflow.db")


def test_a_relative_path_counts_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert make_url(sqlite_address(Path("x.db"))).database == str(tmp_path / "x.db")
