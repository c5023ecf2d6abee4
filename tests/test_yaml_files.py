import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfleet.errors import ConfigError
from promptfleet.yaml_files import as_yaml, dump_yaml, line_of_key, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", float("-inf")),
        ("12", 12),
        ("-7", -7),
        ("+3", 3),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("[1, 2.0, on]", [1, 2.0, "on"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("'1'", "1"),
    ],
)
def test_values(text, value):
    parsed = parse_yaml(text, source="here")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1e-5, "1.0e-05"),
        ("true", "'true'"),
        ("", "''"),
        ("Löwe #1", "'Löwe #1'"),
        ("\x1b[31m", r'"\e[31m"'),
        ({"choice": [None, "null", 3.0, False]}, "{choice: [null, 'null', 3.0, false]}"),
        (["word"] * 200, f"[{', '.join(['word'] * 200)}]"),
    ],
)
def test_a_value_on_one_line(value, text):
    assert as_yaml(value) == text
    assert parse_yaml(text, source="here") == value


@pytest.mark.parametrize(
    "word", ["on", "off", "yes", "no", "Y", "TRUE", "2026-01-01", "1:30", "010", "08", "1_000", "0x10", "e5", "1e", "."]
)
def test_words_that_older_yaml_takes_for_something_else(word):
    assert parse_yaml(word, source="here") == word


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text("abcdefgh", min_size=1, max_size=6),
        st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none() | st.lists(st.integers(), max_size=3),
        max_size=5,
    )
)
def test_what_pyyaml_writes_is_read_back(values):
    assert parse_yaml(yaml.safe_dump(values), source="here") == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1, 2\nc: 3", "f.yaml:3: malformed YAML: expected ',' or ']', but got ':'"),
        ("a: 1\na: 2", "f.yaml:2: malformed YAML: key 'a' is a duplicate"),
        ("x:\n  b: 1\n  c: 2\n  b: 3", "f.yaml:4: malformed YAML: key 'b' is a duplicate"),
        ("- {k: 1, k: 1}", "f.yaml:1: malformed YAML: key 'k' is a duplicate"),
        ("a: 1\n\tb: 2", "f.yaml:2: malformed YAML: found character '\\t' that cannot start any token"),
        ("a: 1\n---\nb: 2", "f.yaml:2: malformed YAML: but found another document"),
        (
            "a: {soft} a photo",
            "f.yaml:1: malformed YAML: expected <block end>, but found '<scalar>'; put such text in quotes",
        ),
        ("a: *nowhere", "f.yaml:1: malformed YAML: found undefined alias 'nowhere'"),
        ("? [1, 2]\n: a", "f.yaml:1: malformed YAML: a key must be a word"),
        (
            "a: !!python/object:os.system x",
            "f.yaml:1: malformed YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object:os.system'",
        ),
        ("a: !!int one", "f.yaml: malformed YAML: invalid literal for int() with base 10: 'one'"),
        (
            "a: \x07",
            "f.yaml: malformed YAML: unacceptable character #x0007: special characters are not allowed",
        ),
    ],
)
def test_malformed_text_is_named_with_its_line(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, source="f.yaml")
    assert str(caught.value) == message


def test_a_number_too_long_for_python_is_one_line():
    with pytest.raises(ConfigError, match=r"^f.yaml: malformed YAML: Exceeds the limit .*$"):
        parse_yaml("1" * 5000, source="f.yaml")


def test_files(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("lr: 1e-3\nname: größe\n", encoding="utf-8")
    assert read_yaml(path) == {"lr": 0.001, "name": "größe"}
    path.write_text("# nothing but a comment\n")
    assert read_yaml(str(path)) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n- 2\n", "must hold 'key: value' lines, found a list"),
        (b"word", "must hold 'key: value' lines, found a str"),
        (b"\xff\xfe\x00", "cannot be read as text ("),
        (b"a: [", "malformed YAML: expected the node content, but found '<stream end>'"),
    ],
)
def test_files_that_hold_something_else(tmp_path, content, message):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_yaml(tmp_path / "no.yaml")
    assert str(caught.value) == f"{tmp_path / 'no.yaml'}: there is no such file"
    with pytest.raises(ConfigError) as caught:
        read_yaml(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: cannot be read as text (")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}", {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}),
        ("a: {z: 1, <<: {x: 1, z: 2}}", {"a": {"z": 1, "x": 1}}),
        ("a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b]}", {"x": 1, "y": 2}),
        ("a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b}", {"x": 2}),
    ],
)
def test_merge_keys(text, value):
    parsed = parse_yaml(text, source="here")
    assert parsed == value or parsed["c"] == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a",
            "f.yaml:4: malformed YAML: key '<<' is a duplicate; write <<: [*one, *other]",
        ),
        (
            "a: {<<: 3}",
            "f.yaml:1: malformed YAML: expected a mapping or list of mappings for merging, but found scalar",
        ),
        ("a: @b", "f.yaml:1: malformed YAML: found character '@' that cannot start any token; put such text in quotes"),
        ("a: b: c", "f.yaml:1: malformed YAML: mapping values are not allowed here; put such text in quotes"),
    ],
)
def test_what_cannot_be_merged_or_read(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, source="f.yaml")
    assert str(caught.value) == message


def test_merges_of_merges_do_not_pile_up():
    lines = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 60))]
    assert parse_yaml("\n".join(lines), source="here")["a59"] == {"x": 1}


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
like_numbers = st.from_regex(r"[-+]?[0-9._]{1,4}([eE][-+]?[0-9]{1,3})?", fullmatch=True)
words = like_numbers | st.sampled_from(["on", "no", "1e3", "010", "1:30", "2026-01-01", "~", "null", "<<", "=", "true"])


@given(st.dictionaries(st.text() | words, plain | words | st.lists(plain | words) | st.dictionaries(words, plain)))
def test_what_is_written_is_read_back(values):
    assert parse_yaml(dump_yaml(values), source="here") == values


def test_a_key_has_its_line_in_its_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("# a\nclients: 3\npartition:\n  alpha: 1\nevaluation.every: 2\n")
    lines = {"clients": 2, "partition": 3, "partition.alpha": 4, "evaluation.every": 5}
    assert {key: line_of_key(path, key) for key in lines} == lines
    assert [line_of_key(path, key) for key in ("", "rounds", "clients.x")] == [None] * 3
    assert line_of_key(tmp_path / "other.yaml", "clients") is None
    assert line_of_key("--set", "clients") is None
