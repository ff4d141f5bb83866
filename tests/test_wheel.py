"""The wheel and the sdist: what is in them, and that the commands run from the wheel in an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What lies in a developer's checkout and is no part of the product.
JUNK = ("examples/digits/float.safetensors", "examples/digits/build/tflite-int8/model.tflite")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist, made of a copy of the tree in which somebody has worked."""
    folder = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "build", "dist"
    )
    tree = Path(shutil.copytree(ROOT, folder / "tree", ignore=ignored))
    for name in JUNK:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, tree],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def program(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sgsc-edge`` of an environment with the wheel, which borrows every other package from this one."""
    home = tmp_path_factory.mktemp("home")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "venv"], check=True)
    python = home / "venv/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", distributions[0]], check=True, timeout=300)
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    (Path(site) / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return home / "venv/bin/sgsc-edge"


def run(program: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{program.parent}:/usr/bin:/bin", "HOME": str(folder)}
    environment |= {"SGSC_EDGE_DATA": str(folder)}  # where examples look for their data; no option of init
    return subprocess.run(
        [program, *arguments],
        cwd=folder,
        env=environment | {name: os.environ[name] for name in ("LANG",) if name in os.environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def shipped(folder: str, *suffixes: str) -> set[str]:
    """Files of a folder of the tree that belong to the product; all, or those with some suffixes."""
    found = (
        path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    return {path.relative_to(ROOT).as_posix() for path in found if not suffixes or path.suffix in suffixes}


def test_the_wheel_holds_the_package_its_targets_and_examples(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[0]) as wheel:
        names = set(wheel.namelist())
        metadata = Parser().parsestr(wheel.read("sgsc_edge-0.1.0.dist-info/METADATA").decode())
        entries = wheel.read("sgsc_edge-0.1.0.dist-info/entry_points.txt").decode()
    data = shipped("targets", ".toml") | {
        name for name in shipped("examples", ".toml", ".py") if name.count("/") == 2
    }
    code = shipped("sgsc_edge")
    info = {
        f"sgsc_edge-0.1.0.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")
    }
    licence = {"sgsc_edge-0.1.0.dist-info/licenses/LICENSE"}
    assert names == {f"sgsc_edge/data/{name}" for name in data} | code | info | licence
    assert "sgsc-edge = sgsc_edge.cli.main:main" in entries
    assert (metadata["License-Expression"], metadata["Requires-Python"]) == ("Apache-2.0", ">=3.11")
    assert set(metadata.get_all("Provides-Extra", [])) == {"build", "device", "dev", "names"}
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# sgsc-edge")


def test_the_sdist_holds_what_building_and_testing_take(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not [name for name in names if name.startswith(("benchmarks/rows", "benchmarks/floats"))]
    wanted = {
        *(
            "LICENSE",
            "Makefile",
            "PKG-INFO",
            "README.md",
            "pyproject.toml",
            "constraints.txt",
            ".ci/packages",
        ),
        "sgsc_edge/c_code/kernels/add.c",
        "targets/tflite-int8.toml",
        "examples/starter/train.py",
        "docs/architecture.md",
        "tests/conftest.py",
        "benchmarks/record.py",
    }
    assert wanted <= names
    assert not names & set(JUNK)


def test_a_checkout_installs_as_it_is(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    code = "import sys, hatchling.build; print(hatchling.build.build_editable(sys.argv[1]))"
    tree = distributions[0].parent / "tree"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=tree, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        (pth,) = (name for name in wheel.namelist() if name.endswith(".pth"))
        assert Path(wheel.read(pth).decode().strip()) == tree


def test_the_wheel_scaffolds_an_example(program: Path, tmp_path: Path) -> None:
    done = run(program, tmp_path, "init", "--example", "digits", "demo")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2:] == [
        "  python demo/train.py",
        "  sgsc-edge build demo --target tflite-int8",
    ]
    written = {path.name: path.read_bytes() for path in (tmp_path / "demo").iterdir()}
    for name in ("data.py", "model.py", "sgsc.toml", "train.py"):
        assert written.pop(name) == (ROOT / "examples/digits" / name).read_bytes()
    assert set(written) == {".gitignore"}


def test_the_wheel_examines_itself(program: Path, tmp_path: Path) -> None:
    done = run(program, tmp_path, "doctor", "--json")
    found = json.loads(done.stdout)
    rows = {(row["part"], row["name"]): row for row in found["findings"]}
    assert done.returncode == found["exit_code"] == 0, found["verdict"]
    assert rows["extra build", "captum"]["state"] == rows["extra device", "unicorn"]["state"] == "ok"
    assert rows["extra build", "torch"]["stops"] == "build"
    assert rows["extra device", "pyserial"]["stops"] == ""
    assert "pytest" not in {name for _, name in rows}


def test_the_wheel_has_targets_and_boards(program: Path, tmp_path: Path) -> None:
    for command in ("targets", "boards"):
        done = run(program, tmp_path, command, "--json")
        names = {row["name"] for row in json.loads(done.stdout)[command]}
        folder = ROOT / "targets" / ("boards" if command == "boards" else "")
        assert names == {path.stem for path in folder.glob("*.toml")}
