"""docs/methods.md and the README have every method, and what they say of it can be checked here."""

import re
import shlex

import pytest

from promptfleet.assignments import parse_assignments
from promptfleet.federation.settings import federation_config
from promptfleet.methods import METHODS, config_class, load_method
from promptfleet.methods.protocol import Needs
from tests.fakes import tiny_world

ITEMS = ["Loss", "Becomes another method", "Differs", "Needs", "Run"]
SEEN = {Needs.GLOBAL: "features", Needs.PATCHES: "patches", Needs.PIXELS: "pixels"}


@pytest.fixture(scope="module")
def page(root) -> str:
    """The page without its comment."""
    return re.sub(r"<!--.*?-->", "", (root / "docs" / "methods.md").read_text(encoding="utf-8"), flags=re.DOTALL)


def table_of(text: str) -> dict[str, list[str]]:
    """The other cells of each row whose first one links a method's name, by the name."""
    rows = re.findall(r"^\| \[(\w+)\]\([^)]*#\1\) \| (.*) \|$", text, flags=re.MULTILINE)
    assert len({name for name, _ in rows}) == len(rows)
    return {name: cells.split(" | ") for name, cells in rows}


def section_of(page: str, method: str) -> str:
    (found,) = re.findall(rf"^## {method}\n(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL)
    return found


def test_rows_and_sections_are_the_methods_in_their_order(page):
    assert list(table_of(page)) == list(METHODS)
    assert re.findall(r"^## (\w+)$", page, flags=re.MULTILINE) == list(METHODS)
    assert {len(cells) for cells in table_of(page).values()} == {5}


def test_the_readme_has_each_method_once(root):
    linked = re.findall(r"\[(\w+)\]\(docs/methods\.md#\1\)", (root / "README.md").read_text(encoding="utf-8"))
    assert sorted(linked) == sorted(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_a_row_says_what_a_method_sees_and_whether_it_uploads(page, method):
    _, _, _, travels, needs = table_of(page)[method]
    loaded = load_method(method)
    assert needs == SEEN[loaded.needs]
    world = tiny_world(config_class=config_class(method), method=method)
    assert (travels.split(" / ")[0] == "nothing") == (loaded.uploads(world) == {})


@pytest.mark.parametrize("method", METHODS)
def test_a_section_has_every_item_and_a_command_that_is_possible(page, method):
    section = section_of(page, method)
    assert re.findall(r"^- \*\*([^*]+)\*\*:", section, flags=re.MULTILINE) == ITEMS
    (command,) = re.findall(r"^- \*\*Run\*\*: `(.*)`$", section, flags=re.MULTILINE)
    program, job, *arguments = shlex.split(command)
    assert (program, job) == ("python", "jobs/train.py")
    assert arguments[::2] == ["--set"] * (len(arguments) // 2)
    values = parse_assignments(arguments[1::2], {})
    assert values["method"] == method
    federation_config(values)


def test_keys_in_the_page_exist(page):
    """Each ``key=value`` in backquotes is a key of some method."""
    fields = {name: field for method in METHODS for name, field in config_class(method).model_fields.items()}
    named = set(re.findall(r"`(\w+)=[^`]*`", page))
    assert {"experts", "memory_weight"} <= named
    assert named <= {field.alias or name for name, field in fields.items()}
