"""The names that users and authors of methods import: where they are, and that importing the packages stays cheap."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import promptfleet
from promptfleet import methods
from promptfleet.methods import protocol

PACKAGES = pytest.mark.parametrize("package", [promptfleet, methods], ids=lambda package: package.__name__)


def names_for_type_checkers(package) -> dict[str, str]:
    """Each name that the package imports under ``if TYPE_CHECKING``, and its module."""
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {alias.name: imported.module for imported in block.body for alias in imported.names}


@PACKAGES
def test_every_public_name_is_what_its_module_defines(package):
    modules = names_for_type_checkers(package)
    assert len(modules) > 15
    for name, module in modules.items():
        assert getattr(package, name) is vars(importlib.import_module(module))[name]


@PACKAGES
def test_type_checkers_and_python_see_the_same_names(package):
    listed = [name for names in package._PUBLIC.values() for name in names]
    assert sorted(listed) == sorted(names_for_type_checkers(package))
    assert set(package.__all__) == set(listed) | ({"METHODS", "config_class", "load_method"} & set(vars(package)))
    assert set(package.__all__) <= set(dir(package))


@PACKAGES
def test_no_public_name_is_hidden_by_a_module(package):
    files = {path.stem for path in Path(package.__file__).parent.iterdir()}
    assert not files & set(package.__all__)


@PACKAGES
def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        _ = package.nothing


def test_authors_find_every_class_of_the_protocol():
    defined = {
        name
        for name, value in vars(protocol).items()
        if inspect.isclass(value) and value.__module__ == protocol.__name__ and not name.startswith("_")
    }
    assert "Method" in defined
    assert defined <= set(methods.__all__)


def test_type_checkers_are_told_that_the_package_is_typed(root):
    assert (root / "platform" / "promptfleet" / "py.typed").read_bytes() == b""
