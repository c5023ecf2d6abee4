"""The token of a Ray on this machine: private, and there whatever home there is."""

import os

import pytest

from promptfleet.cluster import access_token as ray_token
from promptfleet.cluster.access_token import MODE, TOKEN, TOKEN_PATH, kept_token, private_token


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in (MODE, TOKEN, TOKEN_PATH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    ray_token._token.cache_clear()
    yield tmp_path
    ray_token._token.cache_clear()


def token_in_a_block() -> str:
    with private_token():
        token = os.environ[TOKEN]
    assert TOKEN not in os.environ
    return token


def test_a_new_token_is_private_and_stays(home):
    token = token_in_a_block()
    file = home / ".ray/auth_token"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == token == kept_token(file)
    assert [path.name for path in file.parent.iterdir()] == ["auth_token"]


def test_a_token_that_everybody_could_read_is_taken_from_them(home):
    file = home / ".ray/auth_token"
    file.parent.mkdir()
    file.write_text("of an earlier Ray\n")
    file.chmod(0o644)
    assert token_in_a_block() == "of an earlier Ray"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("trouble", ["not a folder", "empty", "a folder", "no text", "no home"])
def test_where_there_is_no_file_to_use_this_process_has_a_token_of_its_own(home, monkeypatch, trouble):
    file = home / ".ray/auth_token"
    if trouble == "not a folder":
        file.parent.touch()
    elif trouble == "a folder":
        file.mkdir(parents=True)
    elif trouble == "no home":

        def nowhere(_):
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(ray_token.Path, "home", classmethod(nowhere))
    else:
        file.parent.mkdir()
        file.write_bytes(b"" if trouble == "empty" else b"\xff")
    token = token_in_a_block()
    assert len(token) == 64
    assert token_in_a_block() == token, "Ray remembers the first that it has seen"


@pytest.mark.parametrize(("name", "value"), [(MODE, "disabled"), (TOKEN, "mine"), (TOKEN_PATH, "/there")])
def test_what_was_chosen_is_left_alone(home, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with private_token():
        assert dict(os.environ) == before
    assert not list(home.iterdir())
