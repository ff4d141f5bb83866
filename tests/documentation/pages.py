"""The pages of the documentation, read as CommonMark: headings, links, blocks of code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_FILE = re.compile(r"`([\w.]+)`[^`]*:$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text, line, and the file that the paragraph before it names, if any."""

    language: str
    text: str
    line: int
    file: str | None


@dataclass(frozen=True)
class Page:
    """What a page holds: headings as Markdown, where links lead, blocks of code, and blocks with spans."""

    path: Path
    blocks: tuple[Block, ...]
    headings: tuple[str, ...]
    links: tuple[str, ...]
    code: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def anchors(self) -> set[str]:
        """What GitHub makes of the headings; one that comes again gets a number."""
        found: dict[str, int] = {}
        anchors = set()
        for heading in self.headings:
            text = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            anchors.add(f"{text}-{found[text]}" if text in found else text)
            found[text] = found.get(text, 0) + 1
        return anchors


@cache
def read(path: Path) -> Page:
    blocks: list[Block] = []
    headings, links, code = [], [], []
    before = ""
    tokens = MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))
    for index, token in enumerate(tokens):
        if token.type == "inline":
            before = token.content
            links += [str(child.attrs["href"]) for child in token.children or () if child.type == "link_open"]
            links += [str(child.attrs["src"]) for child in token.children or () if child.type == "image"]
            if tokens[index - 1].type == "heading_open":
                headings.append(token.content)
            else:
                code += [child.content for child in token.children or () if child.type == "code_inline"]
        elif token.type == "fence":
            assert token.map is not None
            named = _FILE.search(before)
            blocks.append(Block(token.info, token.content, token.map[0] + 1, named[1] if named else None))
            code.append(token.content)
            before = ""
    return Page(path, tuple(blocks), tuple(headings), tuple(links), tuple(code))


def commands(block: Block) -> Iterator[str]:
    """The lines of a block of ``sh``, without comments, those that go on in the next line as one."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if command := re.sub(r"\s+#.*$", "", line).strip():
            yield command
