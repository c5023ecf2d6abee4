"""A study without trials, made once: its tables take a second."""

import shutil

import pytest

from promptfleet.search.space import IntRange
from promptfleet.search.spec import SweepSettings
from promptfleet.search.study import SweepStudy


@pytest.fixture(scope="session")
def empty(tmp_path_factory):
    """The folder of a study that has no trials, to be copied."""
    folder = tmp_path_factory.mktemp("empty")
    SweepStudy(folder, {"experts": IntRange(0, 1)}, SweepSettings(), 1)
    return folder


@pytest.fixture
def study_folder(tmp_path, empty):
    """A folder with a study that has no trials."""
    return shutil.copytree(empty, tmp_path / "study")
