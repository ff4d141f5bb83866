"""The diagnosis: of environments that are whole, bare, outdated and broken, of systems, and of projects."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from sgsc_edge.doctor import Finding, diagnose, packages, programs
from sgsc_edge.doctor.project import has_project, project

ROOT = Path(__file__).parents[2]
CONFIG = """\
[project]
name = "net"
[model]
factory = "model:build"
checkpoint = "float.pt"
input = { shape = [1, 4, 4] }
[data]
train = "data.sets:train"
test = "data.sets:test"
[gate]
max_drop = 0.01
max_lowering_flips = 0.005
"""


def doctor(python: Path | str, *path: Path, arguments: tuple[str, ...] = ("--json",)) -> Any:
    """What the command says in a folder of its own: the exit code and the JSON document (or text)."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))}
    done = subprocess.run(
        [python, "-m", "sgsc_edge.cli.main", "doctor", *arguments],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = json.loads(done.stdout) if "--json" in arguments else done.stdout
    return SimpleNamespace(code=done.returncode, found=found, err=done.stderr)


def rows(found: Any, part: str) -> dict[str, Any]:
    return {row["name"]: row for row in found["findings"] if row["part"] == part}


# --- environments ---------------------------------------------------------------------------------


def test_without_any_package_it_says_what_to_install(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    alone = tmp_path / "alone"  # click is what every command needs
    alone.mkdir()
    (alone / "click").symlink_to(Path(click.__file__).parent)
    ran = doctor(tmp_path / "venv/bin/python", alone)
    assert (ran.code, ran.found["exit_code"]) == (3, 3), ran.err
    assert rows(ran.found, "python")["sgsc-edge"]["mend"] == "pip install 'sgsc-edge[build]'"
    assert rows(ran.found, "runtimes")["numpy"]["mend"] == "pip install numpy"
    assert rows(ran.found, "boards")["pydantic"]["state"] == "missing"
    assert ran.found["verdict"] == "build and verify cannot run: sgsc-edge, numpy"


def distribution(folder: Path, name: str, version: str, *requires: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Provides-Extra: build"]
    lines += [
        "Provides-Extra: device",
        "Provides-Extra: dev",
        *(f"Requires-Dist: {text}" for text in requires),
    ]
    (info / "METADATA").write_text("\n".join(lines))


def test_old_missing_and_damaged_packages_have_their_commands(tmp_path: Path) -> None:
    asked = (
        *("numpy>=2.0", "click>=8.2", "elsewhere>=1; sys_platform == 'nowhere'"),
        *("odd>=1", "absent-trainer>=3; extra == 'build'", "absent-emulator>=4; extra == 'device'"),
        "absent-linter>=5; extra == 'dev'",
    )
    distribution(tmp_path, "sgsc-edge", "9.9", *asked)
    distribution(tmp_path, "numpy", "1.26.4")
    distribution(tmp_path, "odd", "what-ever")
    ran = doctor(sys.executable, tmp_path)
    parts = {"packages": 3, "extra build": 1, "extra device": 1}
    assert {part: len(rows(ran.found, part)) for part in parts} == parts
    found = {name: row for part in parts for name, row in rows(ran.found, part).items()}
    assert ran.code == 3
    assert rows(ran.found, "python")["sgsc-edge"]["detail"] == "9.9"
    assert {name: (row["state"], row["mend"], row["stops"]) for name, row in found.items()} == {
        "numpy": ("wrong", "pip install --upgrade 'numpy>=2.0'", "verify"),
        "click": ("ok", "", "verify"),
        "odd": ("wrong", "pip install --upgrade 'odd>=1'", "verify"),
        "absent-trainer": ("missing", "pip install 'sgsc-edge[build]'", "build"),
        "absent-emulator": ("missing", "pip install 'sgsc-edge[device]'", ""),
    }
    assert found["numpy"]["detail"] == "1.26.4; >=2.0 is needed"
    assert (
        ran.found["verdict"]
        == "build and verify cannot run: numpy, odd (and build not without absent-trainer)"
    )


def test_the_install_of_a_gate_is_well_and_says_that_it_builds_nothing(tmp_path: Path) -> None:
    distribution(tmp_path, "sgsc-edge", "9.9", "click>=8.2", "absent-trainer>=3; extra == 'build'")
    ran = doctor(sys.executable, tmp_path)
    assert (ran.code, ran.found["verdict"]) == (0, "verify can run here; build cannot: absent-trainer"), (
        ran.err
    )


def test_packages_are_listed_without_the_package_that_reads_versions(tmp_path: Path) -> None:
    asked = (
        "click>=8.2",
        "absent[x]>=3",
        "elsewhere>=1; sys_platform == 'nowhere'",
        "pytest; extra == 'dev'",
    )
    distribution(tmp_path, "sgsc-edge", "9.9", *asked, "absent-trainer; extra == 'build'")
    (tmp_path / "packaging.py").write_text("raise ModuleNotFoundError(name='packaging')")
    found = doctor(sys.executable, tmp_path).found
    assert {name: (row["state"], row["mend"]) for name, row in rows(found, "packages").items()} == {
        "click": ("ok", ""),
        "absent": ("missing", "pip install 'absent>=3'"),
    }
    assert rows(found, "extra build")["absent-trainer"]["mend"] == "pip install 'sgsc-edge[build]'"


@pytest.mark.parametrize(
    ("module", "installed", "command"),
    [
        ("serial", (), "pip install pyserial"),
        ("serial", ("pyserial",), "pip install --force-reinstall pyserial"),
        ("oddly_named", ("other-name",), "pip install --force-reinstall other-name"),
        ("unknown", (), "pip install unknown"),
    ],
)
def test_a_module_is_mended_by_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, installed: tuple[str, ...], command: str
) -> None:
    for name in installed:
        distribution(tmp_path, name, "1.0")
        (tmp_path / f"{name.replace('-', '_')}-1.0.dist-info" / "top_level.txt").write_text(module)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # nothing else is installed
    assert packages.mend(packages.distribution_of(module)) == command


def test_a_package_that_raises_when_imported_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "site-packages" / "numpy"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('built for another machine')")
    ran = doctor(sys.executable, broken.parent)
    assert ran.code == 3
    row = rows(ran.found, "runtimes")["numpy"]
    assert (row["state"], row["mend"]) == ("wrong", "pip install --force-reinstall numpy")
    assert "RuntimeError: built for another machine" in row["detail"]
    assert "Traceback" in doctor(sys.executable, broken.parent, arguments=("-v",)).err


def test_nothing_heavy_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sgsc.toml").write_text(CONFIG)
    code = """
import sys
from sgsc_edge.cli.main import main
assert main(["doctor", "--quiet"]) in (2, 3)
heavy = {"torch", "onnx", "onnxruntime", "ai_edge_litert", "tflite_micro", "sklearn", "unicorn"}
assert not heavy & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "model.checkpoint = float.pt" in done.stdout
    assert "the project would be refused" in done.stdout
    assert "not imported" in done.stdout


def test_the_text_groups_what_one_command_mends(tmp_path: Path) -> None:
    distribution(tmp_path, "sgsc-edge", "9.9", "numpy>=99", "absent-a>=3; extra == 'device'", "click>=8.2")
    (tmp_path / "sgsc.toml").write_text(CONFIG)
    text = doctor(sys.executable, tmp_path, arguments=(str(tmp_path),)).found
    here, *remedies, unseen, verdict = text.strip().split("\n\n")
    assert re.search(r"^packages +click [0-9.]+$", here, re.MULTILINE)
    words = [re.split(r"\s+", remedy, maxsplit=2)[:2] for remedy in remedies]
    assert "numpy" in remedies[0]
    assert words[:2] == [["verify", "needs"], ["project", "model.checkpoint"]]
    assert "do            pip install --upgrade 'numpy>=99'" in remedies[0].splitlines()
    (device,) = (remedy for remedy in remedies if "absent-a" in remedy)
    assert device.splitlines()[-1] == "do            pip install 'sgsc-edge[device]'"
    assert "looked up, not imported" in unseen
    assert verdict == "build and verify cannot run: numpy; the project would be refused"


# --- systems --------------------------------------------------------------------------------------


def only(*there: str) -> Callable[..., str | None]:
    return lambda name, *_, **__: f"/bin/{name}" if name in there else None


@pytest.mark.parametrize(
    ("manager", "package", "command"),
    [
        ("apt-get", "qemu-system-misc", "sudo apt-get install qemu-system-misc"),
        ("dnf", "qemu-system-misc", "sudo dnf install qemu-system-riscv"),
        ("pacman", "gcc-aarch64-linux-gnu", "sudo pacman -S aarch64-linux-gnu-gcc"),
        ("brew", "gcc-arm-none-eabi", "brew install arm-none-eabi-gcc"),
        ("brew", "gcc-riscv64-unknown-elf", "install what Debian calls gcc-riscv64-unknown-elf"),
        ("none", "gcc", "install what Debian calls gcc"),
    ],
)
def test_each_system_has_its_own_command(
    monkeypatch: pytest.MonkeyPatch, manager: str, package: str, command: str
) -> None:
    monkeypatch.setattr(shutil, "which", only(manager))
    assert programs.install(package) == command


def test_without_a_cross_compiler_zig_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", only())
    found = {row.name: row for row in programs.compilers()}
    assert found["zig"].state == "ok"
    gcc = found["arm-none-eabi-gcc"]
    assert (gcc.state, gcc.mend) == ("missing", "pip install 'sgsc-edge[device]'")
    emulators = {row.name: row.mend for row in programs.emulators()}
    assert emulators["qemu-aarch64"] == "install what Debian calls qemu-user"
    boards = {row.name: row for row in programs.boards()}
    assert boards["virtual-cortex-m4"].state == "ok"
    qemu = boards["qemu-mps2-an386"]
    assert (qemu.detail, qemu.mend) == ("without qemu-system-arm", "apt install qemu-system-arm")


def test_a_serial_port_that_may_not_be_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ttyACM0").touch()
    monkeypatch.setattr(programs, "_ports", lambda: [str(tmp_path / "ttyACM0")])
    assert [row.state for row in programs.serial_ports()] == ["ok"]
    monkeypatch.setattr(os, "access", lambda *_: False)
    (row,) = programs.serial_ports()
    assert row.state == "wrong"
    assert row.mend.startswith("sudo usermod -aG ")


# --- projects -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "sgsc.toml": CONFIG,
        "model.py": "raise SystemExit('not run')\ndef build(): ...",
        "float.pt": "",
        "data/sets.py": "from other import train\nif True:\n    test = print",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_whole_project_is_well_and_not_run(folder: Path) -> None:
    (row,) = project(folder)
    assert (row.name, row.state) == ("net", "ok")
    assert not diagnose(folder).project_is_wrong


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("float.pt", None, ("model.checkpoint = float.pt", "no such file", "train the float model")),
        ("model.py", None, ("model.factory = model:build", "there is no model.py", "correct")),
        ("model.py", "def biuld(): ...", ("model.factory = model:build", "did you mean 'biuld'?", "correct")),
        ("model.py", "def build(:", ("model.factory = model:build", "model.py cannot be read", "correct")),
        ("data/sets.py", "def train(): ...", ("data.test = data.sets:test", "not define 'test'", "correct")),
        ("sgsc.toml", CONFIG.replace("max_drop", "max_dorp"), ("", "did you mean 'max_drop'?", "correct")),
        (
            "sgsc.toml",
            f"{CONFIG}[targets.tflite-itn8.gate]\nmax_drop = 0.1\n",
            ("", "'tflite-int8'?", "correct"),
        ),
        ("sgsc.toml", "[", ("", "is not valid TOML", "correct this line")),
    ],
)
def test_what_is_wrong_with_a_project(
    folder: Path, name: str, text: str | None, expected: tuple[str, str, str]
) -> None:
    (folder / name).write_text(text) if text is not None else (folder / name).unlink()
    found = project(folder)
    shown, detail, mend = expected
    assert {row.name for row in found} == {shown or str(folder)}
    assert any(detail in row.detail for row in found)
    assert all(row.mend.startswith(mend) for row in found)
    assert diagnose(folder).exit_code == 2


def test_what_the_text_cannot_show_is_not_wrong(folder: Path) -> None:
    (folder / "model.py").write_text("from other import *")
    config = CONFIG.replace("data.sets:test", "torchvision_like:test").replace("model:build", "model:any")
    (folder / "sgsc.toml").write_text(config.replace("torchvision_like", "json"))  # an installed package
    assert [row.state for row in project(folder)] == ["ok"]


def test_a_missing_checkpoint_names_the_training_script(folder: Path) -> None:
    (folder / "float.pt").unlink()
    (folder / "train.py").touch()
    assert [row.mend for row in project(folder)] == [f"python {folder / 'train.py'}"]


def test_the_current_folder_is_examined_where_it_is_a_project(folder: Path, tmp_path: Path) -> None:
    assert has_project(folder)
    (folder / "sgsc.toml").unlink()
    assert not has_project(folder)
    (folder / "pyproject.toml").write_text("[tool.other]\n")
    assert not has_project(folder)
    for text in ("# [tool.sgsc-edge]\n", "[tool.sgsc-edge-other]\n", "[tool]\nsgsc-edge = 1\n"):
        (folder / "pyproject.toml").write_text(text)
        assert not has_project(folder)
    for text in ("[tool.sgsc-edge.project]\n", "[ tool . sgsc-edge ]\n", "[tool.sgsc-edge]\nname = \n"):
        (folder / "pyproject.toml").write_text(text)
        assert has_project(folder)


def test_the_worst_finding_decides(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    lacking = Finding("packages", "torch", "missing", "not installed", stops="verify")
    monkeypatch.setattr("sgsc_edge.doctor.packages.packages", lambda: [lacking])
    assert diagnose(folder).exit_code == 3
    (folder / "float.pt").unlink()
    found = diagnose(folder)
    assert found.exit_code == 2
    assert found.verdict.endswith("cannot run: torch; the project would be refused")
