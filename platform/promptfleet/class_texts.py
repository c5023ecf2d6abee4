"""Files with texts of each class, such as words or descriptions, and such texts as a configuration has them.

A file is YAML: a class per key, and a text or a list of texts. Numbers, ``no`` and dates are text as written::

    zero: [zero, nought, 0]
    one: [one, 1]

A configuration has the same as ``[["zero", "zero", "nought", "0"], ["one", "one", "1"]]``: each class, then its texts.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from functools import lru_cache
from os import PathLike, fspath
from os.path import exists
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from promptfleet.config_types import expand_home
from promptfleet.errors import ConfigError, nearest
from promptfleet.yaml_files import is_null, line_of, read_nodes

ClassTexts = list[Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2)]]
KEYS = ("words", "descriptions")  # of all configurations; the file of KEY is KEY_file


def with_texts_of_files(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values of a configuration with the texts of each ``KEY_file`` as ``KEY``.

    The configuration is then complete without the file, and bound to its content. Paths are made absolute.
    Raises ConfigError: a file cannot be read, or has other texts than ``KEY``, which was there.
    """
    for key in KEYS:
        path, there = values.get(f"{key}_file"), values.get(key)
        if not isinstance(path, str | PathLike):
            continue
        try:
            path = Path(expand_home(fspath(path))).absolute()
        except ValueError:  # the configuration's own check reports that
            continue
        texts = there if there is not None and not path.exists() else _texts_now(path)
        if there not in (None, texts):
            raise ConfigError(
                f"{key}_file={path}: has other texts than {key}; leave {key} out to take the file as it is"
            )
        values = {**values, f"{key}_file": str(path), key: texts}
    return values


def _texts_now(path: Path) -> list[list[str]]:
    """Return ``read_class_texts``, once for the many configurations with one file."""
    stat = path.stat() if path.exists() else None
    return [list(of_class) for of_class in _read_version(path, stat and (stat.st_mtime_ns, stat.st_size))]


@lru_cache(maxsize=8)
def _read_version(path: Path, version: Hashable) -> list[list[str]]:
    return read_class_texts(path)


def read_class_texts(path: str | Path) -> list[list[str]]:
    """Return each class of a file, and its texts. Raises ConfigError with file and line."""
    root = read_nodes(path)
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}: must hold 'class: [text, text]' lines")
    return [[name.value, *_texts(path, name.value, node)] for name, node in root.value]


def texts_of(
    listed: Sequence[Sequence[str]], class_names: Sequence[str], *, key: str, path: str | None
) -> list[list[str]]:
    """Return the texts of each class, in the order of ``class_names``, from a configuration's ``key``.

    Raises ConfigError: a class has none, or is there more than once.
    """
    source = key if path is None else f"{key}_file={path}"
    by_class: dict[str, list[str]] = {}
    for name, *texts in listed:
        if name in by_class:
            raise ConfigError(f"{source}: class {name!r} is a duplicate")
        by_class[name] = texts
    for name in class_names:
        if name not in by_class:
            raise ConfigError(
                f"{source}: there is nothing for class {name!r}; {_hint(name, by_class, class_names, path)}"
            )
    return [by_class[name] for name in class_names]


def _hint(name: str, known: Collection[str], class_names: Sequence[str], path: str | None) -> str:
    """Return the name that may have been meant, with its line while the file is there; else the dataset's classes."""
    near = nearest(name, [one for one in known if one not in class_names])
    if near is None:
        return f"the dataset has {', '.join(class_names)}"
    lines = [line_of(one) for one, _ in read_nodes(path).value if one.value == near] if path and exists(path) else []
    return f"did you mean {near!r}{f' on line {lines[0]}' if lines else ''}?"


def _texts(path: str | Path, name: str, node: yaml.Node) -> list[str]:
    texts = node.value if isinstance(node, yaml.SequenceNode) else [node]
    seen: set[str] = set()
    for text in texts:
        where = f"{path}:{line_of(text)}: class {name!r}"
        if is_null(text) and text.value:
            raise ConfigError(f"{where}: {text.value} is YAML for nothing; put it in quotes if it is a text")
        if not isinstance(text, yaml.ScalarNode) or not text.value.strip():
            raise ConfigError(f"{where}: should have a text or a list of texts")
        if text.value in seen:
            raise ConfigError(f"{where}: {text.value!r} is a duplicate")
        seen.add(text.value)
    if not texts:
        raise ConfigError(f"{path}:{line_of(node)}: class {name!r}: should have a text or a list of texts")
    return [text.value for text in texts]
