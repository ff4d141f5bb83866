"""How a struct of arrays lies in memory: by the rule that every compiler for these devices follows.

Each member starts at the next multiple of its element's size, and the struct is as long as a multiple of the
largest of them. The generated code checks the size when it is compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sgsc_edge.graph.ir import Tensor


@dataclass(frozen=True, eq=False)
class Member:
    """A tensor of a struct: its name there, and its first byte."""

    name: str
    tensor: Tensor
    offset: int

    @property
    def bytes(self) -> int:
        """Of the values."""
        return self.tensor.elements * self.tensor.dtype.numpy.itemsize


@dataclass(frozen=True, eq=False)
class Struct:
    """Members in order; ``bytes`` is what ``sizeof`` gives, gaps of alignment included."""

    members: tuple[Member, ...]
    bytes: int

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Struct:
        """The struct of tensors by their names in C."""
        members, end = [], 0
        for name, tensor in tensors.items():
            member = Member(name, tensor, _aligned(end, tensor.dtype.numpy.itemsize))
            members.append(member)
            end = member.offset + member.bytes
        largest = max((tensor.dtype.numpy.itemsize for tensor in tensors.values()), default=1)
        return Struct(tuple(members), _aligned(end, largest))


def _aligned(offset: int, size: int) -> int:
    return -(-offset // size) * size
