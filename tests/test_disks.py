"""Places that are checked before anything is written there."""

import tempfile

import pytest

from promptfleet.disks import check_writable
from promptfleet.errors import StorageError


def test_a_folder_that_is_removed_during_the_check_is_named_as_that(tmp_path, monkeypatch):
    place, make = tmp_path / "mine", tempfile.mkdtemp
    place.mkdir()

    def remove_before(**options):
        place.rmdir()
        return make(**options)

    monkeypatch.setattr(tempfile, "mkdtemp", remove_before)
    with pytest.raises(StorageError, match="it is missing, or was removed meanwhile"):
        check_writable(place)


def test_a_place_without_room_for_names_is_refused_and_one_with_room_stays_empty(tmp_path):
    with pytest.raises(StorageError, match="its file system cannot do this"):
        check_writable("/proc/x")
    check_writable(tmp_path / "a folder of mine" / "漢字")
    assert not any(tmp_path.iterdir())
