"""Every error that sgsc-edge raises on purpose, each with its exit code.

::

    SgscError
    ├── InputError            2   the user's input is wrong
    │   ├── ConfigError           sgsc.toml, a target file, a policy, an option
    │   ├── ModelError            factory, checkpoint, forward pass, weights
    │   ├── DataError             data set, labels, samples
    │   ├── FileFormatError       an .onnx, .tflite, .npz or certificate that is malformed or edited
    │   ├── UnsupportedError      an op that cannot be lowered exactly, or not for this target
    │   └── OutputError           the output folder cannot be written
    │       └── FolderInUseError      by another process
    ├── NotMeasuredError      3   something required could not be measured here
    ├── BoardError            4   a board, its firmware or the link to it
    │   ├── ToolchainError        no cross-compiler, or it refused the firmware
    │   ├── ImageError            the firmware does not fit the board
    │   ├── LinkError             no sound answer
    │   └── TrapError             the firmware did what the board does not allow, or never ended
    └── InternalError         5   a broken invariant: our bug
    Interrupted             130   Ctrl-C

A gate that failed (1) or was not measured (3) is a certificate's verdict, not an error.

An error says what is wrong (``message``), where (``where``) and what to do (``remedy``).
"""

from __future__ import annotations


class SgscError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    message: what is wrong, one short sentence.
    where: file and line, config key, node or tensor name.
    remedy: what the user can do about it.
    """

    exit_code: int = 5

    def __init__(self, message: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.message = message
        self.where = where
        self.remedy = remedy
        super().__init__(message)

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  -> {self.remedy}" if self.remedy else text


class InputError(SgscError):
    """The user's input is wrong."""

    exit_code = 2


class ConfigError(InputError):
    """A config file, target, policy or option is wrong; ``problems`` lists every finding."""

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
        problems: tuple[str, ...] = (),
    ) -> None:
        self.problems = problems
        super().__init__(message, where=where, remedy=remedy)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {problem}" for problem in self.problems)])


class ModelError(InputError):
    """The model's factory, checkpoint, forward pass or weights are wrong."""


class DataError(InputError):
    """A data set, a label or a sample is wrong."""


class FileFormatError(InputError):
    """A file is malformed, truncated, oversized or edited."""


class UnsupportedError(InputError):
    """An op cannot be lowered exactly, or not for this target; names node, op, reason and remedy.

    ``wanted``: what the op cannot be, where that is not lowering.
    """

    def __init__(self, *, node: str, op: str, reason: str, remedy: str, wanted: str = "lowered") -> None:
        self.node = node
        self.op = op
        self.reason = reason
        super().__init__(f"{op} cannot be {wanted}: {reason}", where=f"node '{node}'", remedy=remedy)


class OutputError(InputError):
    """The output folder cannot be written, is full, or is in use by another process."""


class FolderInUseError(OutputError):
    """Another process works in the folder."""


class NotMeasuredError(SgscError):
    """Something that the result must state could not be measured here."""

    exit_code = 3


class BoardError(SgscError):
    """A board, its firmware, or the link to it fails."""

    exit_code = 4


class ToolchainError(BoardError):
    """There is no cross-compiler, or it refused the firmware; ``output`` is what it said."""

    def __init__(
        self, message: str, *, where: str | None = None, remedy: str | None = None, output: str = ""
    ) -> None:
        self.output = output
        super().__init__(message, where=where, remedy=remedy)


class ImageError(BoardError):
    """The firmware does not fit the board's flash or RAM."""


class LinkError(BoardError):
    """The board gives no answer, or none that is sound."""


class TrapError(BoardError):
    """The firmware did what the board does not allow, or never ended.

    ``kind`` says what (``"write to flash"``); ``pc`` is the address of the instruction and ``function`` the C
    function around it; ``address`` is the memory that was accessed. What is not known is None.
    """

    def __init__(
        self,
        kind: str,
        *,
        pc: int | None = None,
        function: str | None = None,
        address: int | None = None,
        where: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.kind = kind
        self.pc = pc
        self.function = function
        self.address = address
        parts = [kind]
        parts += [f"at address {address:#010x}"] if address is not None else []
        parts += [f"in {function}"] if function is not None else []
        parts += [f"(pc {pc:#010x})"] if pc is not None else []
        super().__init__(" ".join(parts), where=where, remedy=remedy)


class InternalError(SgscError):
    """An invariant of sgsc-edge itself is broken."""

    exit_code = 5


class Interrupted(SgscError):
    """The user interrupted the run; what was finished is kept."""

    exit_code = 130
