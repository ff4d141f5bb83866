"""Board files: every shipped one is valid, and a wrong one says everything that is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sgsc_edge.boards.description import Board, board_folder, board_names, load_board
from sgsc_edge.errors import ConfigError

SHIPPED = {
    "virtual-cortex-m0plus": None,
    "virtual-cortex-m3": "qemu-mps2-an385",
    "virtual-cortex-m4": "qemu-mps2-an386",
    "virtual-cortex-m7": "qemu-mps2-an500",
    "virtual-cortex-m33": "qemu-mps2-an505",
}
TEXT = (board_folder() / "virtual-cortex-m4.toml").read_text(encoding="utf-8")


def test_the_shipped_boards_are_valid_and_one_elf_serves_both_emulators() -> None:
    boards = {name: load_board(name) for name in board_names()}
    assert set(boards) == {
        *SHIPPED,
        *filter(None, SHIPPED.values()),
        "qemu-mps3-an547",
        "qemu-riscv32",
        "linux-aarch64",
        "qemu-mps2-an386-uart",
    }
    for virtual, machine in SHIPPED.items():
        assert virtual == f"virtual-{boards[virtual].chip.cpu}"
        if machine is not None:
            assert boards[machine].chip == boards[virtual].chip
            assert machine == f"qemu-{boards[machine].reach.machine}"


def written(folder: Path, *changes: tuple[str, str], name: str = "virtual-cortex-m4") -> Board:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return load_board(path)


def test_a_board_of_the_users_own(tmp_path: Path) -> None:
    board = written(tmp_path, ("virtual-cortex-m4", "mine"), ('"512 KiB"', "65536"), name="mine")
    assert (board.name, board.chip.flash.size, board.chip.stack) == ("mine", 65536, 4096)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'cortex-m4"\nfpu',
            'cortex-m44"\nfpu',
            "chip.cpu: 'cortex-m44' is no known core; did you mean 'cortex-m4'?",
        ),
        ('cortex-m4"\nfpu', 'cortex-m3"\nfpu', "cortex-m3 has no FPU: leave fpu away"),
        ('cortex-m4"\nfpu', 'cortex-m55"\nfpu', "Unicorn emulates no cortex-m55"),
        ("0x20000000", "0x00040000", "flash and ram overlap"),
        ("0x20000000", "0x20000001", "chip.ram.origin: must be a multiple of 1024"),
        ("0x20000000", "0xFFFFFC00", "ends behind the last address"),
        ('stack = "4 KiB"', 'stack = "256 KiB"', "the stack of 262144 bytes does not fit into 262144 bytes"),
        ('stack = "4 KiB"', "stack = 1001", "chip.stack: must be a multiple of 8"),
        (
            'cortex-m4"\nfpu = true',
            'aarch64"',
            "flash.origin, ram.origin and stack of aarch64 are multiples of",
        ),
        ('via = "unicorn"', 'via = "linux"', "a board with cortex-m4 cannot be reached via 'linux'"),
        ("fpu = true", "fpus = true", "chip.fpus: unknown key; did you mean 'fpu'?"),
        ('via = "unicorn"', 'via = "qemu"', "machine is given exactly where via is 'qemu'"),
        ('via = "unicorn"', 'via = "unicorn"\nmachine = "x"', "machine is given exactly where via is 'qemu'"),
        ('via = "unicorn"', 'via = "qemu"\nmachine = "x,y=z"', "reach.machine: must"),
        ('via = "unicorn"', 'via = "cable"', "reach.via: must be 'unicorn', 'qemu', 'linux' or 'serial'"),
        ('name = "virtual-cortex-m4"', 'name = "other"', "name the file other.toml"),
    ],
)
def test_a_wrong_board_file_is_explained(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        written(tmp_path, (old, new))
    assert message in str(raised.value)


UART = """
[link]
driver = "cmsdk-uart"
base = 0x40004000
clock = 25000000
baud = 115200
"""
VIA_SERIAL = ('via = "unicorn"', 'via = "serial"\nport = "/dev/ttyACM0"')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("cmsdk-uart", "uart"), "link.driver: must be 'cmsdk-uart' or 'ns16550'"),
        (("base = 0x40004000", "base = 1"), "link.base: must be a multiple of 4"),
        (("clock = 25000000", "clock = 1000000"), "1000000 Hz is too slow for 115200 bits a second"),
        (("baud = 115200", "speed = 115200"), "link.speed: unknown key"),
        ((UART, ""), "a board at a serial port has a [link]"),
        (("/dev/ttyACM0", "ttyACM0"), "reach.port: must"),
        (("/dev/ttyACM0", "usb:1:2"), "reach.port: must"),
        (('\nport = "/dev/ttyACM0"', ""), "port is given exactly where via is 'serial'"),
        (('via = "serial"\nport = "/dev/ttyACM0"', 'via = "unicorn"'), "reached via 'unicorn' has no [link]"),
    ],
)
def test_a_wrong_link_is_explained(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        written(tmp_path, (TEXT, TEXT + UART), VIA_SERIAL, change)
    assert message in str(raised.value)


def test_a_board_at_a_serial_port(tmp_path: Path) -> None:
    board = written(tmp_path, (TEXT, TEXT + UART), VIA_SERIAL)
    assert board.link is not None
    assert (board.reach.port, board.link.baud) == ("/dev/ttyACM0", 115200)


def test_the_documented_examples_are_boards(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "boards.md").read_text(encoding="utf-8")
    example, port = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "my-m4.toml"
    path.write_text(example, encoding="utf-8")
    board = load_board(path)
    assert (board.chip.flash.size, board.chip.ram.size, board.chip.fpu) == (256 * 1024, 64 * 1024, True)
    path.write_text(example.partition("[reach]")[0] + port, encoding="utf-8")
    assert load_board(path).reach.port == "/dev/ttyACM0"


def test_an_unknown_board_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'virtual-cortex-m4'") as raised:
        load_board("virtual-cortexm4")
    assert "qemu-mps2-an386" in str(raised.value)
