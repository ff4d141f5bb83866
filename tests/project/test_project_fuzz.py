"""Whatever a project file says, it is a project or one ConfigError; never another exception."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgsc_edge.errors import ConfigError
from sgsc_edge.project import load_project

KEYS = [
    "project.name",
    "model.factory",
    "model.checkpoint",
    "model.input",
    "model.input.shape",
    "model.input.mean",
    "model.input.range",
    "model.task",
    "model.saw_pool",
    "data.train",
    "data.classes",
    "preservation",
    "preservation.fraction",
    "gate.max_drop",
    "gate.metric",
    "compress",
    "compress.budget",
    "compress.lambda",
    "export",
    "export.names",
    "targets",
    "targets.t",
    "targets.t.compress",
    "targets.t.compress.seed",
    "unknown",
    "",
    '"quoted key".x',
]
VALUES = [
    "1",
    "-1",
    "0.5",
    "nan",
    "inf",
    "true",
    "99999999999999999999999",
    '""',
    '"a:b"',
    '"6 kB"',
    "[]",
    "[1]",
    "[0.5, 0.1]",
    '["a", "a"]',
    "[[1], {}]",
    "{}",
    "{ shape = [1], x = {} }",
    "{ compress = 1 }",
    "1979-05-27",
    "plain text",
    "",
]
BASE = """\
project.name = "net"
model = { factory = "model:build", input = { shape = [1, 8, 8] } }
data.train = "data:train"
gate = { max_drop = 0.01, max_lowering_flips = 0.005 }
"""


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), min_size=1, max_size=4), st.booleans()
)
def test_any_settings_load_or_are_refused(
    tmp_path: Path, entries: list[tuple[str, str]], on_command_line: bool
) -> None:
    lines = [f"{key} = {value}" for key, value in entries]
    text = BASE if on_command_line else "\n".join([BASE, *lines])
    (tmp_path / "sgsc.toml").write_text(text)
    try:
        project = load_project(tmp_path, lines if on_command_line else ())
    except ConfigError:
        return
    assert project.for_target("t").config_hash()
