"""The config reference is what the models say, and they say something about every key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from sgsc_edge import config_reference
from sgsc_edge.config_text import inner_model

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str | None]]:
    """Every key below ``model``, dotted, with its description."""
    for name, info in model.model_fields.items():
        key = f"{prefix}.{info.alias or name}"
        yield key, info.description
        if (inner := inner_model(info.annotation)) is not None:
            yield from keys(inner, key)


KEYS = {key: text for file in config_reference.FILES for key, text in keys(file.model, file.title)}


def test_the_page_is_what_the_models_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == config_reference.reference(), "run: make docs"


def test_every_file_that_people_write_is_there() -> None:
    some = {
        "Project file.compress.lambda",
        "Policy file.gate.max_drop",
        "Target file.weights.bits",
        "Board file.chip.ram.size",
    }
    assert some <= KEYS.keys()


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_a_description_in_sentences(key: str) -> None:
    text = KEYS[key]
    assert text is not None
    assert text[0] in "`[" or text[0].isupper() or text[0].isdigit()
    assert text.endswith("."), text
    assert "|" not in text  # it would end a cell of the table


def test_a_missing_key_is_told_with_its_meaning(tmp_path: Path) -> None:
    from sgsc_edge.errors import ConfigError
    from sgsc_edge.project import load_project

    (tmp_path / "sgsc.toml").write_text("[gate]\nmax_lowering_flips = 0\n")
    with pytest.raises(ConfigError) as raised:
        load_project(tmp_path)
    problems = {problem.split(": ")[1]: problem for problem in raised.value.problems}
    assert problems["gate.max_drop"].split(": ", 2)[2].startswith("is required: by how much the compressed")
