"""docs/architecture.md names folders, imports and code that exist."""

import re
from functools import reduce
from importlib import import_module

import pytest

from tests.test_imports import FOUNDATION, MAY_IMPORT


@pytest.fixture(scope="module")
def page(root) -> str:
    return (root / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_its_table_is_who_may_import_whom(page):
    rows = re.findall(r"^\| `([a-z_]+)/` \| .+ \| (.*) ?\|$", page, flags=re.MULTILINE)
    table = {folder: set(re.findall(r"`(\w+)`", cell)) for folder, cell in rows}
    assert table == {area: allowed for area, allowed in MAY_IMPORT.items() if area and area not in FOUNDATION}


def test_each_folder_stands_below_those_that_import_it(page):
    order = re.findall(r"^\| `([a-z_]+)/` \|", page, flags=re.MULTILINE)
    assert all(order.index(other) < order.index(area) for area in order for other in MAY_IMPORT[area])


def test_it_names_code_where_it_is(page):
    named = re.findall(r"`([A-Za-z_.]+)`\s+\(`([a-z_/]+)\.py`\)", page)
    assert len(named) > 20
    for name, file in named:
        module = import_module(f"promptfleet.{file.replace('/', '.')}")
        assert reduce(getattr, name.split("."), module).__module__ == module.__name__, name


def test_it_names_files_and_folders_that_exist(page, root):
    package = root / "platform" / "promptfleet"
    named = set(re.findall(r"`([a-z_/]+(?:/|\.py|\.yaml))`", page))
    assert {"federation/on_ray/", "config.py", "configs/"} <= named
    parts = [package, *(package / area for area in ("methods", "federation", "cluster"))]
    assert [path for path in named if not any((base / path).exists() for base in [root, *parts])] == []
