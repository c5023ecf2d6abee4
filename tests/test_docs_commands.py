"""Commands in the README and in docs/ name jobs, options, files and keys that exist."""

import inspect
import re
import shlex
from itertools import pairwise

import pytest

from promptfleet.federation import settings
from promptfleet.federation.settings import read_federation_config
from promptfleet.search.spec import read_sweep

FILE_OPTIONS = ("--config", "--search", "--tune")


def commands(root) -> dict[str, list[str]]:
    """The words of each ``python jobs/...`` command, by its text."""
    found: dict[str, list[str]] = {}
    for page in [root / "README.md", *sorted(root.glob("docs/**/*.md"))]:
        text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL).replace("\\\n", " ")
        for command in re.findall(r"python (jobs/\w+\.py[^`\n]*)", text):
            found.setdefault(command, shlex.split(command, comments=True))
    return found


@pytest.fixture(scope="module")
def sources(root) -> dict[str, str]:
    """The source of each job, and of the options that jobs share."""
    shared = inspect.getsource(settings)
    return {f"jobs/{path.name}": path.read_text(encoding="utf-8") + shared for path in root.glob("jobs/*.py")}


def values_of(words: list[str], option: str) -> list[str]:
    return [value for name, value in pairwise(words) if name == option]


def test_jobs_options_and_files_exist(root, sources):
    found = commands(root)
    assert len(found) > 40
    wrong = []
    for command, (job, *words) in found.items():
        options = {word for word in words if word.startswith("--")}
        wrong += [f"{command}: {option}" for option in options if f'"{option}"' not in sources[job]]
        files = [file for option in FILE_OPTIONS for file in values_of(words, option)]
        wrong += [f"{command}: {file}" for file in files if not file.isupper() and not (root / file).is_file()]
    assert wrong == []


def test_settings_of_single_federations_are_possible(root):
    tried = 0
    for job, *words in commands(root).values():
        sets = [text for text in values_of(words, "--set") if not text.endswith("=")]
        if job != "jobs/train.py" or "..." in words or any(":" in text or ".json" in text for text in sets):
            continue
        config = values_of(words, "--config")
        read_federation_config(root / config[0] if config else None, sets)
        tried += 1
    assert tried > 20


def test_searches_can_be_read(root):
    searches = {file for words in commands(root).values() for file in values_of(words, "--search")}
    assert len(searches) > 1
    for file in searches:
        assert read_sweep(root / file).space
