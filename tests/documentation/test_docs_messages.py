"""The messages that troubleshooting.md explains are messages of the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from documentation.pages import ROOT, read

import sgsc_edge

GAP = "…"
MESSAGES = [
    heading.strip("`")
    for heading in read(ROOT / "docs" / "troubleshooting.md").headings
    if heading.startswith("`")
]


def constants(tree: ast.Module) -> dict[str, str]:
    """The texts that a module names."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }


def texts(tree: ast.Module, known: Mapping[str, str]) -> Iterator[str]:
    """Every text of a module but docstrings, with what it fills in as gaps."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}

    def part(value: ast.expr) -> str:
        if isinstance(value, ast.Constant):
            return str(value.value)
        assert isinstance(value, ast.FormattedValue)
        return known.get(value.value.id, GAP) if isinstance(value.value, ast.Name) else GAP

    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(map(part, node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


TREES = [
    ast.parse(path.read_text(encoding="utf-8")) for path in Path(sgsc_edge.__file__).parent.rglob("*.py")
]
NAMED = {name: text for tree in TREES for name, text in constants(tree).items()}
SOURCES = [text for tree in TREES for text in texts(tree, NAMED)]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_is_explained_is_one_of_ours(message: str) -> None:
    parts = [re.escape(part) for part in message.split(GAP)]
    pattern = re.compile(".*?".join(parts), re.DOTALL)
    assert any(pattern.search(text) for text in SOURCES), "no module says so: has the message changed?"
    assert max(map(len, message.split(GAP))) >= 6, "too little is left to recognise it by"


def test_enough_is_explained() -> None:
    assert len(MESSAGES) == len(set(MESSAGES)) >= 30


def test_every_supported_module_is_listed() -> None:
    from sgsc_edge.compression.tracing.kinds import supported_modules

    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    paragraph = page.split("Supported modules:")[1].split("their functions")[0]
    assert set(re.findall(r"`(\w+)`", paragraph)) == set(supported_modules())
