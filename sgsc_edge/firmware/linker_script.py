"""The linker script of a chip: what lies where in its flash and RAM.

Sections are named by what they are for, so that an image says how much of it is the model's:

- flash: ``.vectors``, ``.board`` (start-up and link), ``.code`` (the package's, and what it calls),
  ``.constants``, ``.weights`` (constants of ``weights.c``), and the initial values of ``.data``;
- RAM, from its first address: ``.stack``, ``.data``, ``.arena`` (the package's variables), ``.bss``.

Regions are as large as addresses allow: what does not fit is found by size, and said in bytes.
"""

from __future__ import annotations

from sgsc_edge.firmware.chip import Chip

# Names of object files: the board's own sources, and the package's. What stands in for a compiler's run-time
# library has another name: its code counts as the code that calls it.
BOARD_OBJECT = "board_"
LIBRARY_OBJECT = "library_"
PACKAGE_OBJECT = "package_"

FLASH_SECTIONS = (".vectors", ".board", ".code", ".constants", ".weights")
STACK_SECTION = ".stack"
DATA_SECTION = ".data"
ZERO_SECTIONS = (".arena", ".bss")
RESET = "board_reset"


# What an operating system maps. The stack ends where a page does (``Chip``), so that no two share one.
_HOST_SEGMENTS = """
PHDRS
{
  flash PT_LOAD FLAGS(5);
  stack PT_LOAD FLAGS(6);
  variables PT_LOAD FLAGS(6);
}
"""


def linker_script(chip: Chip) -> str:
    """The script's text; sections keep this order for every chip."""
    hosted = chip.architecture.hosted
    flash, stack, variables = (" :flash", " :stack", " :variables") if hosted else ("", "", "")
    return f"""\
ENTRY({RESET})

MEMORY
{{
  FLASH (rx) : ORIGIN = {chip.flash.origin:#010x}, LENGTH = {_room(chip.flash.origin, chip.ram.origin):#x}
  RAM (rw) : ORIGIN = {chip.ram.origin:#010x}, LENGTH = {_room(chip.ram.origin, chip.flash.origin):#x}
}}
{_HOST_SEGMENTS if hosted else ""}
board_flash_origin = {chip.flash.origin:#010x};
board_flash_limit = {chip.flash.end:#010x};
board_ram_origin = {chip.ram.origin:#010x};
board_ram_limit = {chip.ram.end:#010x};

SECTIONS
{{
  .vectors : {{ KEEP(*(.vectors)) }} > FLASH{flash}
  .board : {{ *{BOARD_OBJECT}*.o(.text .text.* .rodata .rodata.*) }} > FLASH{flash}
  .code : {{ *(.text .text.*) }} > FLASH{flash}
  .weights : {{ *{PACKAGE_OBJECT}weights.o(.rodata .rodata.*) }} > FLASH{flash}
  .constants : {{ *(.rodata .rodata.*) }} > FLASH{flash}

  .stack (NOLOAD) :
  {{
    board_stack_limit = .;
    . += {chip.stack};
    board_stack_top = .;
  }} > RAM{stack}
  .data : ALIGN(8)
  {{
    board_data = .;
    *(.data .data.*)
    . = ALIGN(4);
    board_data_end = .;
  }} > RAM AT > FLASH{variables}
  board_data_load = LOADADDR(.data);
  board_image_end = LOADADDR(.data){"" if hosted else " + SIZEOF(.data)"};
  .arena (NOLOAD) : ALIGN(8)
  {{
    board_zero = .;
    *{PACKAGE_OBJECT}*.o(.bss .bss.*)
  }} > RAM{variables}
  .bss (NOLOAD) :
  {{
    *(.bss .bss.*)
    . = ALIGN(4);
    board_zero_end = .;
  }} > RAM{variables}

  /DISCARD/ : {{ *(.ARM.exidx* .ARM.extab* .comment .note.* .eh_frame*) }}
}}
"""


def _room(origin: int, other: int) -> int:
    """Bytes from ``origin`` to the other region, or to the last address."""
    return (other if other > origin else 2**32) - origin
