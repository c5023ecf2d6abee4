"""YAML as people mean it: ``1e-3`` is a number, ``on`` is a word, a duplicate key is a mistake."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import yaml

from promptfleet.errors import ConfigError, first_line
from promptfleet.escaping import printable

DEEPEST = 40  # sections within sections
LARGEST = 100_000  # values in a file, those behind an alias counted each time
_WORD, _MERGE, _NULL = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "merge", "null"))
_NEEDS_QUOTES = re.compile(
    r"character '[^\\]' that cannot start any token|mapping values are not allowed here|found '<scalar>'"
)
_YAML_1_1 = ("bool", "int", "float", "timestamp")  # "on", "010" (8), "1:30" (90), "2026-01-01"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core scalars instead of the 1.1 ones that PyYAML resolves by default."""

    yaml_implicit_resolvers: ClassVar[dict] = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[-1] not in _YAML_1_1]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.composer.ComposerError(None, None, "nested too deeply", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag not in (_WORD, _MERGE):
                hint = "; put it in quotes" if isinstance(key_node, yaml.ScalarNode) else ""
                problem = f"a key must be a word{hint}"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if key_node.value in seen:
                hint = "; write <<: [*one, *other]" if key_node.tag == _MERGE else ""
                problem = f"key {key_node.value!r} is a duplicate{hint}"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key_node.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        last = {key_node.value: (key_node, value_node) for key_node, value_node in node.value}
        node.value = list(last.values())  # keys that were merged and overridden would pile up


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes text which either version of YAML would read as something else."""


_FLOAT = r"^[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|nan))$"
for _one in (_Loader, _Dumper):
    _one.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
    _one.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9]\d*)$"), list("-+0123456789"))
    _one.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT), list("-+0123456789."))


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Return text from which ``read_yaml`` makes the same values; keys stay in their order."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False)


def as_yaml(value: Any) -> str:
    """Return ``value`` on one line as a file has it: ``null``, ``true``, ``[0.1, 3.0]``, ``{int: [1, 8]}``."""
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    return printable(text.removesuffix("\n").removesuffix("\n..."))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a mapping from a file. Raises ConfigError (missing, not text, malformed with its line, not a mapping)."""
    value = parse_yaml(_read(path), source=str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold 'key: value' lines, found a {type(value).__name__}")
    return value


def read_nodes(path: str | Path) -> yaml.Node | None:
    """Read the nodes of a file, which know their lines (``line_of``); None if it is empty. Raises as ``read_yaml``."""
    text = _read(path)
    with _malformed(str(path)):
        return yaml.compose(text, Loader=_Loader)


def line_of(node: yaml.Node) -> int:
    """Return the line that a node of ``read_nodes`` starts on, from 1."""
    return node.start_mark.line + 1


def is_null(node: yaml.Node) -> bool:
    """Return True for an empty value, ``~`` and ``null`` without quotes."""
    return node.tag == _NULL


def line_of_key(path: str | Path, key: str) -> int | None:
    """Return the line of a dotted key in a file of sections; None: there is no such file or key."""
    if not key or not Path(path).is_file():
        return None
    node = read_nodes(path)
    parts = [key] if key in _keys_of(node) else key.split(".")
    found = None
    for part in parts:
        found = _keys_of(node).get(part)
        if found is None:
            return None
        node = found[1]
    return line_of(found[0])


def _keys_of(node: yaml.Node | None) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """Return the keys of a mapping and their values, by the keys' text; none of any other node."""
    return {name.value: (name, value) for name, value in node.value} if isinstance(node, yaml.MappingNode) else {}


def parse_yaml(text: str, *, source: str) -> Any:
    """Parse one YAML document. Raises ConfigError that names ``source`` and the line."""
    with _malformed(source):
        value = yaml.load(text, Loader=_Loader)
    if _size(value) > LARGEST:
        raise ConfigError(f"{source}: malformed YAML: more than {LARGEST} values, or an alias within its own value")
    return value


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:  # also what no file is called, and what is no UTF-8
        raise ConfigError(f"{path}: cannot be read as text ({error})") from None


@contextmanager
def _malformed(source: str) -> Iterator[None]:
    """Raise ConfigError with ``source`` and the line for what is no YAML."""
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        hint = "; put such text in quotes" if _NEEDS_QUOTES.search(error.problem or "") else ""
        raise ConfigError(f"{where}: malformed YAML: {error.problem or error.context}{hint}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: malformed YAML: {first_line(error)}") from None
    except (ValueError, AttributeError, TypeError, OverflowError) as error:  # "!!int one", thousands of digits, ...
        raise ConfigError(f"{source}: malformed YAML: {error}") from None


def _size(value: Any, depth: int = 0) -> int:
    """Return the number of values in ``value``, or more than ``LARGEST``."""
    if depth > 2 * DEEPEST:
        return LARGEST + 1
    size = 1
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | set) else ():
        size += _size(inner, depth + 1)
        if size > LARGEST:
            break
    return size
