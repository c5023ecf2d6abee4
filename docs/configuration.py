"""Write docs/configuration.md from the descriptions of all configuration keys: python docs/configuration.py"""

import inspect
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from promptfleet.config import FederationConfig, Section, dotted_fields, flatten
from promptfleet.config_types import expand_home
from promptfleet.methods import METHODS, config_class
from promptfleet.search.spec import SweepSettings

PAGE = Path(__file__).with_suffix(".md")
HEAD = """\
# Configuration

All keys of a federation, with their types and defaults. `python docs/configuration.py` writes this page from
[`config.py`](../platform/promptfleet/config.py) and the methods' files.

Set a key in a YAML file (`--config FILE`, with a section per prefix) or on the command line
(`--set partition.alpha=0.1`). The command line wins over the file, and the file over the default. Unknown keys are
errors.
"""
METHOD_HEAD = """\
## Keys of each method

A method's keys are set next to the others: `--set experts=5 --set pool.storage=disk`. A table also lists the keys of
all methods for which the method has another default.
"""
NAMES = {bool: "true or false", int: "integer", float: "number", str: "text"}
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def page() -> str:
    """Return the text of docs/configuration.md."""
    sections = {name: field for name, field in FederationConfig.model_fields.items() if _is_section(field)}
    own = [(key, field) for key, field in dotted_fields(FederationConfig) if key not in sections and "." not in key]
    parts = [HEAD, "## Federation\n", _table(own, FederationConfig())]
    for name, field in sections.items():
        keys = dotted_fields(field.annotation, f"{name}.")
        parts += [f"## {name}\n", _docstring(field.annotation), _table(keys, FederationConfig())]
    parts.append(METHOD_HEAD)
    for method in METHODS:
        model = config_class(method)
        keys = [(key, field) for key, field in dotted_fields(model) if _differs(model, key.split(".")[0])]
        parts += [f"### {method}\n", _table(keys, model()) if keys else "No keys or defaults of its own.\n"]
    parts += ["## Search files\n", "Keys of a file in `search_spaces/`, next to `federation` and `space`.\n"]
    parts.append(_table(dotted_fields(SweepSettings), SweepSettings()))
    return "\n".join(parts)


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, Section)


def _differs(model: type[FederationConfig], name: str) -> bool:
    """Return whether the model has a field that all methods lack, or one with another default or description."""
    fields = {field.alias or key: field for key, field in model.model_fields.items()}
    shared = FederationConfig.model_fields.get(name)
    mine = fields[name]
    return shared is None or (mine.default, mine.description) != (shared.default, shared.description)


def _docstring(model: type[Section]) -> str:
    return f"{inspect.getdoc(model)}\n".replace("``", "`")


def _table(keys: Iterable[tuple[str, FieldInfo]], defaults: Section) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    values = flatten(defaults.to_dict() if isinstance(defaults, FederationConfig) else defaults.model_dump(mode="json"))
    for key, field in keys:
        default = values[key] if isinstance(values[key], str) else json.dumps(values[key])
        rows.append(f"| `{key}` | {words(field.annotation, field.metadata)} | `{default}` | {field.description} |")
    return "\n".join(rows) + "\n"


def words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Return a type in words, with the bounds in its metadata: ``integer at least 1 or null``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join("null" if branch is NoneType else words(branch, metadata) for branch in arguments)
    if origin is Mapping:
        return "section of keys"
    if origin in (list, tuple):
        return f"list, each {words(arguments[0])}"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is Annotated:
        inner = [one for given in arguments[1:] for one in getattr(given, "metadata", [given])]
        return words(arguments[0], [*inner, *metadata])
    if any(getattr(one, "func", None) is expand_home for one in metadata):
        return "path"
    bounds = [
        f"{word} {getattr(one, name):g}" for one in metadata for name, word in BOUNDS.items() if hasattr(one, name)
    ]
    return " ".join([NAMES[annotation], ", ".join(bounds)]).strip()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
