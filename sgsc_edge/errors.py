"""Every error that sgsc-edge raises on purpose, each with its exit code.

::

    SgscError
    ├── InputError            2   the user's input is wrong
    │   ├── ConfigError           sgsc.toml, a target file, a policy, an option
    │   ├── ModelError            factory, checkpoint, forward pass, weights
    │   ├── DataError             data set, labels, samples
    │   ├── FileFormatError       an .onnx, .tflite, .npz or certificate that is malformed or edited
    │   ├── UnsupportedError      an op that cannot be lowered exactly, or not for this target
    │   └── OutputError           the output folder cannot be written, or is in use
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
    """An op cannot be lowered exactly, or not for this target; names node, op, reason and remedy."""

    def __init__(self, *, node: str, op: str, reason: str, remedy: str) -> None:
        self.node = node
        self.op = op
        self.reason = reason
        super().__init__(f"{op} cannot be lowered: {reason}", where=f"node '{node}'", remedy=remedy)


class OutputError(InputError):
    """The output folder cannot be written, is full, or is in use by another process."""


class InternalError(SgscError):
    """An invariant of sgsc-edge itself is broken."""

    exit_code = 5


class Interrupted(SgscError):
    """The user interrupted the run; what was finished is kept."""

    exit_code = 130
