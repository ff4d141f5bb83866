"""Links between pages lead somewhere, and every page is reached from the index."""

from __future__ import annotations

from pathlib import Path

import pytest
from documentation.pages import PAGES, ROOT, read


def resolved(page: Path, link: str) -> tuple[Path, str]:
    target, _, anchor = link.partition("#")
    return (page.parent / target).resolve() if target else page, anchor


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_between_pages_and_their_anchors_exist(path: Path) -> None:
    broken = []
    for link in read(path).links:
        if link.startswith(("https://", "mailto:")):
            continue
        target, anchor = resolved(path, link)
        if not target.is_relative_to(ROOT) or not target.exists():
            broken.append(link)
        elif anchor and anchor not in read(target).anchors:
            broken.append(f"{link}: {target.name} has no such heading")
    assert not broken


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    reached = {resolved(index, link)[0] for link in read(index).links} | {index, ROOT / "README.md"}
    assert set(PAGES) <= reached
    assert index in {resolved(PAGES[0], link)[0] for link in read(PAGES[0]).links}


def test_figures_of_the_readme_are_rows_of_the_results() -> None:
    def rows(path: Path) -> set[tuple[str, ...]]:
        lines = (line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| "))
        return {tuple(cell.strip() for cell in line.strip("|").split("|"))[:2] for line in lines}

    shown = rows(ROOT / "README.md")
    assert len(shown) > 5
    assert shown <= rows(ROOT / "docs" / "results.md")
