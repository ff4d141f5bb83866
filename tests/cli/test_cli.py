"""The command line in real processes: exit codes, pure JSON, errors that name the nearest."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from build_folders import context, write_folder
from click.core import ParameterSource

from sgsc_edge.certification.verify import certify_folder
from sgsc_edge.cli.main import COMMANDS, cli
from sgsc_edge.runtimes import specs

CLI = [sys.executable, "-m", "sgsc_edge.cli.main"]
PROJECT = """\
[project]
name = "net"
[model]
factory = "my_model:build"
input = { shape = [1, 4, 4] }
[data]
train = "my_data:train"
[gate]
max_drop = 0.01
max_lowering_flips = 0.005
"""
MODEL = """\
import os, torch
from torch import nn
print("printed by user code")
os.write(1, b"written by user code\\n")
def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
"""
DATA = """\
import torch
def train():
    return [(torch.rand(1, 4, 4), i % 3) for i in range(60)]
"""


def run(*args: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SGSC_EDGE_")}
    command = [*CLI, *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, env=clean | environment, timeout=300, check=False
    )


def patched(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process where ``code`` ran first."""
    code = f"import sys\n{code}\nfrom sgsc_edge.cli.main import main\nsys.exit(main({list(args)!r}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Standard output, which must be exactly one JSON document."""
    parsed = json.loads(done.stdout)
    assert isinstance(parsed, dict)
    return parsed


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in {"sgsc.toml": PROJECT, "my_model.py": MODEL, "my_data.py": DATA}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


# --- help and mistyped commands -------------------------------------------------------------------


def test_help_lists_exactly_the_commands_that_exist() -> None:
    done = run("--help")
    assert done.returncode == 0
    listed = re.findall(r"^  (\w+)  ", done.stdout.partition("Commands:")[2], re.MULTILINE)
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_the_common_options(name: str) -> None:
    done = run(name, "-h")
    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--json", "--quiet", "--verbose"))


def test_version() -> None:
    assert re.fullmatch(r"sgsc-edge, version \d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("biuld",), "No such command 'biuld'. Did you mean 'build'?"),
        (
            ("zzz",),
            f"No such command 'zzz'. Commands: {', '.join(COMMANDS)}.",
        ),
        (("targets", "--jsn"), "Did you mean '--json'?"),
        (("package", "x", "--format", "c-cod"), "Did you mean 'c-code'?"),
        (("build", ".", "-t", "x", "--method", "qta8"), "Did you mean 'qat8'?"),
        (("flash", "x", "--board", "y", "--toolchain", "gc"), "Did you mean 'gcc'?"),
        (("build", "."), "Targets: c-learned, onnx-int8, onnx-learned, tflite-int4,"),
        (("verify",), "Missing argument 'FOLDER'"),
        (("targets", "extra"), "unexpected extra argument"),
    ],
)
def test_a_mistyped_command_line_is_explained(args: tuple[str, ...], message: str) -> None:
    done = run(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    as_json = run(*args, SGSC_EDGE_JSON="1")
    assert as_json.returncode == 2
    assert message in document(as_json)["error"]["message"]


# --- listings -------------------------------------------------------------------------------------


def test_targets_as_text_and_json() -> None:
    text = run("targets")
    assert text.returncode == 0
    tables = [part.splitlines() for part in text.stdout.split("\n\n")]
    heads = [part[0].split()[0] for part in tables]
    assert heads == ["target", "target", "op,", "targets"]
    assert tables[0][0].split() == [
        "target",
        "what",
        "it",
        "is",
        "required",
        "runtimes",
        "optional",
        "alignment",
    ]
    assert ["tflm-int4", "Conv2D", "4", "per-channel", "0", "unpacked"] in [row.split() for row in tables[1]]
    assert "c-learned     Conv2D           1 to 8, learned  per-channel" in text.stdout
    assert tables[2][0].split()[-4:] == ["c-learned", "tflite-int4", "tflite-int8", "tflm-int4"]
    assert ["Conv2D", "6", "7", "6", "7"] in [row.split() for row in tables[2]]
    assert any("  litert " in row and " 1 step " in row for row in tables[3])
    rows = {row["name"]: row for row in document(run("targets", "--json"))["targets"]}
    assert "tflm" in rows["tflite-int8"]["runtimes"]["required"]
    assert rows["tflm-int4"]["versions"]["FullyConnected"] == 9
    assert rows["tflite-int8"]["alignment"] == 16
    assert all(row["reason"] for row in rows["tflite-int8"]["tolerances"])


def test_runtimes_as_text_and_json() -> None:
    rows = {row["name"]: row for row in document(run("runtimes", "--json"))["runtimes"]}
    assert rows["numpy"]["version"]
    assert rows["litert"]["reads"] == "model.tflite"
    text = run("runtimes").stdout
    assert all(name in text for name in rows)


def test_boards_as_text_and_json() -> None:
    rows = {row["name"]: row for row in document(run("boards", "--json"))["boards"]}
    assert rows["virtual-cortex-m4"]["chip"]["ram"] == {"origin": 0x20000000, "size": 262144}
    assert rows["virtual-cortex-m4"]["missing"] == []
    assert rows["virtual-cortex-m4"]["toolchain"].startswith(("arm-none-eabi-gcc ", "zig "))
    without = {row["name"]: row for row in document(run("boards", "--json", PATH=""))["boards"]}
    assert without["virtual-cortex-m4"]["missing"] == []  # pip alone is enough
    assert without["virtual-cortex-m4"]["toolchain"].startswith("zig ")
    assert without["qemu-mps2-an386"]["missing"] == ["apt install qemu-system-arm"]
    text = run("boards", PATH="").stdout.splitlines()
    assert text[0].split()[0] == "board"
    lines = {line.split()[0]: line for line in text}
    assert lines["qemu-mps2-an386"].endswith("no: apt install qemu-system-arm")
    assert lines["virtual-cortex-m0plus"].endswith("yes")


# --- output ---------------------------------------------------------------------------------------


def test_a_reader_that_left_early_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*CLI, "targets", "--json"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_standard_output_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*CLI, "targets"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: standard output: No space left on device\n")


def test_a_name_that_the_terminal_cannot_show_is_no_crash(certified: Path) -> None:
    folder = certified.rename(certified.with_name("zürich×"))
    done = run("inspect", folder / "model.tflite", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert "rich\\xd7" in done.stdout


def test_an_unexpected_exception_is_our_bug() -> None:
    code = "import sgsc_edge.api\ndef broken(): 1 / 0\nsgsc_edge.api.available_targets = broken"
    done = patched(code, "targets")
    assert (done.returncode, done.stdout) == (5, "")
    assert "this is a bug in sgsc-edge: ZeroDivisionError: division by zero" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in patched(code, "targets", "-v").stderr
    error = document(patched(code, "targets", "--json"))["error"]
    assert (error["kind"], error["exit_code"]) == ("InternalError", 5)


@pytest.mark.parametrize("arguments", [("targets",), ("verify", ".")])
def test_a_missing_package_is_no_bug_of_ours(arguments: tuple[str, ...]) -> None:
    done = patched("import sys\nsys.modules['pydantic'] = None", *arguments)
    assert done.returncode == 3, done.stderr
    assert "the Python package 'pydantic' is not installed, or broken" in done.stderr
    assert "-> see what is missing and the command that gets it: sgsc-edge doctor" in done.stderr
    done = patched("import sys\nsys.modules['sgsc_edge.targets'] = None", "targets")
    assert done.returncode == 5
    assert "this is a bug" in done.stderr


def test_a_missing_option_is_named_also_where_its_values_cannot_be_listed() -> None:
    done = patched("import sys\nsys.modules['pydantic'] = None", "build", ".")
    assert done.returncode == 2
    assert "Missing option '--target'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_ends_with_130() -> None:
    code = (
        "import sgsc_edge.api\n"
        "def broken(): raise KeyboardInterrupt\n"
        "sgsc_edge.api.available_targets = broken"
    )
    done = patched(code, "targets")
    assert (done.returncode, done.stdout) == (130, "")
    assert "error: interrupted" in done.stderr
    assert document(patched(code, "targets", "--json"))["error"]["kind"] == "Interrupted"


# --- build ----------------------------------------------------------------------------------------


def test_wrong_settings_are_all_shown(project: Path) -> None:
    (project / "sgsc.toml").write_text(PROJECT.replace("max_drop", "max_dorp"))
    done = run("build", project, "--target", "tflite-int8", "--set", "compress.epochs=0")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{project / 'sgsc.toml'}:9: gate.max_dorp: unknown key; did you mean 'max_drop'?" in done.stderr
    assert "--set: compress.epochs: must be greater than 0, not 0" in done.stderr
    as_json = run("build", project, "--target", "tflite-int8", "--set", "compress.epochs=0", "--json")
    error = document(as_json)["error"]
    assert (error["kind"], error["exit_code"], len(error["problems"])) == ("ConfigError", 2, 3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("build", "absent", "-t", "tflite-int8"), "absent: does not exist"),
        (("build", ".", "-t", "tflite-int9"), "unknown target 'tflite-int9'; did you mean 'tflite-int8'?"),
        (("build", ".", "-t", "mine.toml"), "mine.toml: cannot be read"),
        (("inspect", ".", "--board", "virtual-cortx-m4"), "did you mean 'virtual-cortex-m4'?"),
        (("verify", "absent"), "absent"),
        (("inspect", "absent.tflite"), "absent.tflite"),
    ],
)
def test_missing_things_are_named(args: tuple[str, ...], message: str) -> None:
    done = run(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


def test_options_come_from_the_environment_too(project: Path) -> None:
    done = run(
        "build",
        project,
        SGSC_EDGE_BUILD_TARGET="tflite-int8",
        SGSC_EDGE_BUILD_SET="compress.epochs=0;compress.budget=6 kg",
        SGSC_EDGE_JSON="1",
    )
    assert [problem.split(":")[1] for problem in document(done)["error"]["problems"]] == [
        " compress.epochs",
        " compress.budget",
    ]


def options_of(name: str) -> list[tuple[click.Context, click.Option]]:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    context = click.Context(found, info_name=name)
    return [(context, each) for each in found.params if isinstance(each, click.Option)]


SHARED = {"--json": "SGSC_EDGE_JSON", "--quiet": "SGSC_EDGE_QUIET", "--verbose": "SGSC_EDGE_VERBOSE"}
FORMS = {"boolean": "1", "integer range": "7", "float range": "1.5", "float": "0.5", "number": "0.5"}
FORMS_READ = {"1": "True"}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_read_from_the_one_variable_that_the_documentation_says(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``SGSC_EDGE_<COMMAND>_<OPTION>``: a variable for another command, or named otherwise, is not read."""
    for variable in [variable for variable in os.environ if variable.startswith("SGSC_EDGE_")]:
        monkeypatch.delenv(variable)
    for its, option in options_of(name):
        (long,) = (each for each in option.opts if each.startswith("--"))
        plain = long.removeprefix("--").replace("-", "_").upper()
        expected = SHARED.get(long, f"SGSC_EDGE_{name.upper()}_{plain}")
        value = FORMS.get(
            option.type.name, option.type.choices[0] if hasattr(option.type, "choices") else "v"
        )
        parameter = str(option.name).upper()
        others = {f"SGSC_EDGE_{plain}", f"SGSC_EDGE_{parameter}", f"SGSC_EDGE_{name.upper()}_{parameter}"}
        others |= {f"SGSC_EDGE_{other.upper()}_{plain}" for other in COMMANDS}
        with monkeypatch.context() as patched:
            for other in others - {expected}:
                patched.setenv(other, value)
            _, source = option.consume_value(its, {})
            assert source is not ParameterSource.ENVIRONMENT, (name, long)
            patched.setenv(expected, value)
            read, source = option.consume_value(its, {})
            assert source is ParameterSource.ENVIRONMENT, (name, long)
            assert str(option.type_cast_value(its, read)).strip("()',") == FORMS_READ.get(value, value)


def test_variables_of_options_differ_from_each_other_and_from_the_documented_others() -> None:
    variables = [
        option.envvar
        for name in COMMANDS
        for _, option in options_of(name)
        if option.envvar not in SHARED.values()
    ]
    assert len(variables) > 20
    assert len(set(variables)) == len(variables)
    others = {
        "SGSC_EDGE_DATA",
        "SGSC_EDGE_MNIST_MIRRORS",
        *(spec.python_variable for spec in specs().values()),
    }
    assert not others & set(variables)


def test_what_is_set_for_a_build_says_nothing_to_a_package(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    done = run("package", missing, SGSC_EDGE_OUT="o", SGSC_EDGE_BUILD_OUT="o", SGSC_EDGE_KIND="c-code")
    assert "Missing option '--format'" in done.stderr
    done = run("package", missing, SGSC_EDGE_PACKAGE_FORMAT="c-code")
    assert "neither a build folder nor a .tflite" in done.stderr


def test_the_users_mistakes_reach_the_user(project: Path) -> None:
    """One build a mistake is what a user sees; every kind of mistake is tested beside the project."""
    (project / "my_model.py").write_text(
        MODEL.replace("return nn", "raise RuntimeError('lost')\n    return nn")
    )
    done = run("build", project, "--target", "tflite-int8", "--out", project / "out", "--json")
    assert done.returncode == 2
    (outcome,) = document(done)["builds"]  # whatever user code printed went to standard error
    assert outcome["error"]["kind"] == "ModelError"
    assert "raised RuntimeError: lost (my_model.py:6, in build)" in outcome["error"]["message"]
    assert "printed by user code" in done.stderr
    assert "written by user code" in done.stderr


def test_an_output_folder_that_is_a_file_is_refused(project: Path) -> None:
    (project / "out").write_text("a file")
    done = run("build", project, "--target", "tflite-int8", "--out", project / "out")
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "--out" in done.stderr


SEVERAL = """
import sgsc_edge.api, sgsc_edge.errors as e
from types import SimpleNamespace as S
CODES = {codes}
def prepare(project, targets, settings):
    return [(None, S(name=name)) for name in targets]
def build_target(project, target, out, board):
    code = CODES[target.name]
    if code in (2, 5):
        raise {{2: e.DataError, 5: e.InternalError}}[code]("wrong")
    predicate = S(target=target.name, test={{}}, labels="given")
    return S(exit_code=code, verdict="V", predicate=predicate, subjects={{}}, differences=(), not_repeated=(),
             to_json=dict, summary_rows=lambda: [("model",)], gate_lines=lambda: ["gate"],
             must_keep_line=str, warning_lines=list, is_text=False)
sgsc_edge.api.prepare, sgsc_edge.api.build_target = prepare, build_target
sgsc_edge.api.has_frontier, sgsc_edge.api.search = lambda project: False, lambda folder: None
"""


@pytest.mark.parametrize(
    ("codes", "worst"),
    [
        ({"a": 0, "b": 0}, 0),
        ({"a": 1, "b": 0}, 1),
        ({"a": 3, "b": 1}, 3),
        ({"a": 2, "b": 3}, 2),
        ({"a": 2, "b": 5}, 5),
    ],
)
def test_the_worst_target_gives_the_exit_code_and_all_are_built(codes: dict[str, int], worst: int) -> None:
    arguments = [part for name in codes for part in ("--target", name)]
    done = patched(SEVERAL.format(codes=codes), "build", *arguments, "--json")
    assert done.returncode == worst
    builds = {outcome["target"]: outcome for outcome in document(done)["builds"]}
    assert {name: outcome["exit_code"] for name, outcome in builds.items()} == codes
    assert all(("error" in builds[name]) == (code in (2, 5)) for name, code in codes.items())


# --- verify and inspect ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_folder(tmp_path_factory.mktemp("build") / "tflite-int8")
    certify_folder(folder, context())
    return folder


@pytest.fixture
def certified(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "tflite-int8"))


def test_verify_passes_fails_and_judges_by_a_policy(certified: Path, tmp_path: Path) -> None:
    done = run("verify", certified)
    assert done.returncode == 0
    assert f"PASSED: tflite-int8 in {certified}" in done.stdout.splitlines()
    (tmp_path / "strict.toml").write_text("[gate]\nmax_drop = 0.0\n")
    strict = run("verify", certified, "--policy", tmp_path / "strict.toml", "--json")
    assert strict.returncode == 1
    found = document(strict)
    assert found["exit_code"] == 1
    assert found["certificate"]["predicate"]["verdict"] == "FAILED"


def test_verify_without_a_required_runtime_has_not_measured(certified: Path, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text('[runtimes]\nrequired = ["tensorflow"]\n')
    done = run(
        "verify", certified, "--policy", tmp_path / "policy.toml", SGSC_EDGE_PYTHON_TENSORFLOW="/nonexistent"
    )
    assert done.returncode == 3
    assert "NOT_MEASURED" in done.stdout


def test_verify_names_an_edited_file(certified: Path) -> None:
    with (certified / "model.tflite").open("ab") as model:
        model.write(b"\0")
    done = run("verify", certified, "--json")
    error = document(done)["error"]
    assert (done.returncode, error["kind"]) == (2, "FileFormatError")
    assert "model.tflite" in f"{error['where']} {error['message']}"


@pytest.mark.parametrize("name", ["model.tflite", "model.qdq.onnx"])
def test_inspect_as_text_and_json(certified: Path, name: str) -> None:
    text = run("inspect", certified / name)
    assert text.returncode == 0, text.stderr
    assert text.stdout
    assert document(run("inspect", certified / name, "--json"))
