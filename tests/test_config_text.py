"""TOML with lines: the scanner finds what tomllib parses, and findings name key, line and nearest key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from sgsc_edge.config_text import Key, TomlFile, parse_key, parse_size, parse_toml, read_toml, validate
from sgsc_edge.errors import ConfigError

TEXT = '''# comment with [brackets] = and "quotes
top = 1
"quoted key" = { a = 1, b = [1, 2] }   # = [x]

[a.b]
multi = """
[not.a.table]
key = 1 \\""" still
"""
list = [
  "]",  # ]
  { x = 1 },
]
dotted.name = 'c:\\path'

[[rows]]
n = 0
[rows.sub]
s = 1
[[rows]]
n = 1
[rows."s.t"]
u = """x"""""
'''
LINES: dict[Key, int] = {
    ("top",): 2,
    ("quoted key",): 3,
    ("a", "b"): 5,
    ("a", "b", "multi"): 6,
    ("a", "b", "list"): 10,
    ("a", "b", "dotted", "name"): 14,
    ("rows", 0, "n"): 17,
    ("rows", 0, "sub", "s"): 19,
    ("rows", 1): 20,
    ("rows", 1, "n"): 21,
    ("rows", 1, "s.t", "u"): 23,
}


@pytest.mark.parametrize("key", LINES, ids=str)
def test_every_key_has_its_line(key: Key) -> None:
    assert parse_toml(TEXT, "x.toml").locate(key) == f"x.toml:{LINES[key]}"


def test_an_absent_key_is_located_at_the_table_around_it() -> None:
    file = parse_toml(TEXT, "x.toml")
    assert file.locate(("a", "b", "absent")) == "x.toml:5"
    assert file.locate(("rows", 1, "absent")) == "x.toml:20"
    assert file.locate(("quoted key", "b", 1)) == "x.toml:3"
    assert file.locate(("absent",)) == "x.toml"


def test_a_table_of_a_file_keeps_its_lines() -> None:
    file = parse_toml(TEXT, "x.toml").below(("a", "b"))
    assert file.tables["list"] == ["]", {"x": 1}]
    assert file.locate(("list",)) == "x.toml:10"


def _paths(value: Any, key: Key = ()) -> set[Key]:
    found = {key} if key else set()
    if isinstance(value, dict):
        for name, inner in value.items():
            found |= _paths(inner, (*key, name))
    return found


NAMES = st.sampled_from(["a", "b-c", "d_e", "0"])
VALUES = st.sampled_from(
    ["1", '"]"', "'#'", '"""\n[x]\ny=1"""', "[1, [2,\n 3]]", "'''it's\n'''", '"\\"["', "1e3"]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(NAMES, st.dictionaries(NAMES, VALUES, max_size=3)), max_size=4))
def test_the_scanner_finds_every_key_that_tomllib_parses(
    tables: list[tuple[str, dict[str, str]]],
) -> None:
    text, expected = "", {}
    for number, (table, entries) in enumerate(tables):
        name = f"{table}{number}"
        expected[(name,)] = text.count("\n") + 1
        text += f"[{name}] # [z]\n"
        for key, value in entries.items():
            expected[(name, key)] = text.count("\n") + 1
            text += f"{key} = {value}\n\n"
    file = parse_toml(text, "x")
    assert _paths(tomllib.loads(text)) == set(file.lines)
    assert dict(file.lines) == expected


@pytest.mark.parametrize(
    ("text", "where"),
    [("a = 1\nb = \n", "x.toml:2"), ("a = 1\na = 2\n", "x.toml:2"), ("[" * 5000, "x.toml")],
)
def test_a_syntax_error_names_its_line(text: str, where: str) -> None:
    with pytest.raises(ConfigError, match="is not valid TOML") as caught:
        parse_toml(text, "x.toml")
    assert caught.value.where is not None
    assert caught.value.where.startswith(where)


def test_unreadable_files_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path)
    (tmp_path / "x.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        read_toml(tmp_path / "x.toml")
    (tmp_path / "x.toml").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ConfigError, match="is larger than"):
        read_toml(tmp_path / "x.toml")


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    epochs: int = Field(default=1, gt=0)
    rate: float = 1.0


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    compress: Inner = Inner()
    rows: list[Inner] = []
    name: str


def _problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        validate(Outer, parse_toml(text, "f"), remedy="correct it")
    return caught.value.problems


def test_all_findings_come_at_once_each_at_its_line() -> None:
    problems = _problems("[compress]\nepoch = 1\nrate = 'x'\n[[rows]]\n[[rows]]\nepochs = 0\n")
    assert problems == (
        "f:3: compress.rate: must be a valid number, not 'x'",
        "f:2: compress.epoch: unknown key; did you mean 'epochs'?",
        "f:6: rows[1].epochs: must be greater than 0, not 0",
        "f: name: is required",
    )


def test_a_key_of_another_section_names_that_section() -> None:
    assert _problems("name = 'x'\nrate = 1\n") == ("f:2: rate: unknown key; it belongs in [compress]",)


def test_a_key_like_no_other_lists_the_known_ones() -> None:
    assert _problems("name = 'x'\n[compress]\nzzz = 1\n") == (
        "f:3: compress.zzz: unknown key (known: epochs, rate)",
    )


def test_a_value_where_a_table_belongs_is_explained() -> None:
    assert _problems("name = 'x'\ncompress = 3\n") == ("f:2: compress: must be a table, not 3",)


def test_valid_text_gives_the_model() -> None:
    assert validate(Outer, parse_toml("name = 'x'\ncompress.rate = 2\n", "f"), remedy="").compress.rate == 2.0


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("6 kB", 6000),
        ("6kB", 6000),
        ("1.5 kB", 1500),
        ("2.3 kB", 2300),
        ("2 KiB", 2048),
        ("1 B", 1),
        ("1 MB", 10**6),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["6", "6 kb", "6 KB", "", "kB", "-1 kB", "0 B", "1.5 B", "1e3 kB", "inf kB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "meant"), [("6 KB", "kB"), ("6 zB", "kB"), ("6k", "kB"), ("6 mb", "MB"), ("6 kiB", "KiB")]
)
def test_a_unit_that_is_none_is_guessed(text: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "a.", "a b", "a=1", "a\nb", "[a]", "a.'b"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a dotted key"):
        parse_key(text)


def test_a_file_without_tables_locates_by_its_label() -> None:
    assert TomlFile("--set", {}, {}).locate(("a",)) == "--set"
