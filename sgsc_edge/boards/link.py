"""The host's side of the link: requests and answers in frames with a checksum, over bytes that may get lost.

``firmware/board/protocol.h`` describes the frame. A request is sent again until its answer comes: an answer
counts when its checksums fit and it repeats the request's type and sequence number. Sequence numbers start
anywhere, so that a board that was not reset since another session has no old answer that passes for a new
one.
"""

from __future__ import annotations

import contextlib
import secrets
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from sgsc_edge.boards.faults import Fault, Faults
from sgsc_edge.errors import LinkError

MAGIC = b"SG"
VERSION = 2
HELLO, RUN, SELFTEST, STACK, CHECK, BYE = range(1, 7)
ANSWER = 0x80
FAULT = 0xFE
ERROR = 0xFF

_HEADER = struct.Struct("<2sBBII")  # without its checksum
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_HELLO = struct.Struct("<32sIIIII")
_FAULT = struct.Struct("<IIQQQ")
_NOT_KNOWN = 2**64 - 1
_REASONS = {
    1: "it does not know this request",
    2: "the payload has the wrong length",
    3: "its image is smaller",
}
_NAMES = {HELLO: "HELLO", RUN: "RUN", SELFTEST: "SELFTEST", STACK: "STACK", CHECK: "CHECK", BYE: "BYE"}


class Transport(Protocol):
    """Bytes to a board and back, in order, perhaps not all of them."""

    def write(self, data: bytes, timeout_s: float) -> None:
        """Send bytes; what cannot be sent within ``timeout_s`` seconds is dropped."""

    def read(self, timeout_s: float) -> bytes:
        """What has come, at least one byte; empty where nothing comes within ``timeout_s`` seconds."""

    def program_counter(self) -> int | None:
        """The instruction that the board is executing; None where that cannot be told."""


@dataclass(frozen=True)
class Frame:
    """One sound frame."""

    type: int
    sequence: int
    payload: bytes


@dataclass(frozen=True)
class Hello:
    """What the firmware says of itself: SHA-256 of its model in hex, sizes in bytes, and its core.

    ``core`` is the number that the core has for itself (``Cpu.number``), 0 where it has none.
    """

    hash: str
    input_bytes: int
    output_bytes: int
    arena_bytes: int
    stack_bytes: int
    core: int


@dataclass(frozen=True)
class StackUse:
    """Bytes of stack: the most in use since reset, and the most that one inference took."""

    total: int
    inference: int


def encode(frame: Frame) -> bytes:
    """The bytes of a frame.

    >>> encode(Frame(HELLO, 7, b"")).hex()
    '5347010207000000000000005e08b204'
    """
    header = _HEADER.pack(MAGIC, frame.type, VERSION, frame.sequence, len(frame.payload))
    crc = zlib.crc32(header)
    data = header + _CHECKSUM.pack(crc) + frame.payload
    return data + _CHECKSUM.pack(zlib.crc32(frame.payload, crc)) if frame.payload else data


class Decoder:
    """Finds sound frames in a stream of bytes; all else is noise, and dropped.

    ``limit``: the most bytes that an output can have; a header with a larger payload than that, and than the
    other answers', is noise.
    """

    def __init__(self, limit: int = 0) -> None:
        self._limit = max(limit, _HELLO.size, _FAULT.size)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that ``data`` completes."""
        self._buffer += data
        while (start := self._buffer.find(MAGIC)) >= 0:
            del self._buffer[:start]
            if len(self._buffer) < _HEADER_BYTES:
                return
            _, kind, version, sequence, length = _HEADER.unpack_from(self._buffer)
            crc = zlib.crc32(self._buffer[: _HEADER.size])
            if version != VERSION or length > self._limit or not self._holds(crc, _HEADER.size):
                del self._buffer[:1]
                continue
            end = _HEADER_BYTES + length
            size = end + _CHECKSUM.size if length else end
            if len(self._buffer) < size:
                return
            payload = bytes(self._buffer[_HEADER_BYTES:end])
            if length and not self._holds(zlib.crc32(payload, crc), end):
                del self._buffer[:1]  # what follows may begin inside the payload that was not whole
                continue
            del self._buffer[:size]
            yield Frame(kind, sequence, payload)
        del self._buffer[: max(0, len(self._buffer) - 1)]  # the last byte may be half of a beginning

    def forget(self) -> None:
        """Drop an incomplete frame: the rest of it does not come any more."""
        self._buffer.clear()

    def _holds(self, crc: int, offset: int) -> bool:
        return bool(_CHECKSUM.unpack_from(self._buffer, offset)[0] == crc)


class Link:
    """Requests over a transport.

    Parameters
    ----------
    output_bytes: of the model; no answer is longer than that, or than HELLO's.
    timeout_s: seconds for a request and its answer, before the request is sent again.
    byte_s: seconds that the line takes for a byte, on top of that; 0 where it takes none.
    attempts: how often a request is sent before ``LinkError``.
    sequence: the first sequence number; drawn at random where it is not given.
    faults: says what a fault means that the firmware reports.
    """

    def __init__(
        self,
        transport: Transport,
        output_bytes: int,
        *,
        timeout_s: float,
        byte_s: float = 0.0,
        attempts: int = 5,
        sequence: int | None = None,
        faults: Faults,
    ) -> None:
        self._transport = transport
        self._decoder = Decoder(output_bytes)
        self._output_bytes = output_bytes
        self._timeout_s = timeout_s
        self._byte_s = byte_s
        self._attempts = attempts
        self._sequence = secrets.randbits(32) if sequence is None else sequence
        self._faults = faults

    def settle(self, input_bytes: int) -> None:
        """End what an earlier session may have left half-sent: fill up the input that is waited for."""
        rest = bytes(input_bytes + _CHECKSUM.size)
        self._transport.write(rest, self._limit(len(rest)))

    def hello(self) -> Hello:
        """Ask the firmware what it is."""
        fields = _HELLO.unpack(self._request(HELLO, b"", _HELLO.size))
        return Hello(fields[0].hex(), *fields[1:])

    def run(self, data: bytes) -> bytes:
        """One inference: the input's bytes to the output's."""
        return self._request(RUN, data, self._output_bytes)

    def selftest(self, more_s: float = 0.0) -> int:
        """Run the golden vectors that are built in; 0 where they pass.

        ``more_s``: seconds that they may take beyond the time of one answer.
        """
        result: int = struct.unpack("<i", self._request(SELFTEST, b"", 4, more_s))[0]
        return result

    def stack(self) -> StackUse:
        """The stack's high-water mark."""
        return StackUse(*struct.unpack("<II", self._request(STACK, b"", 8)))

    def check(self, offset: int, size: int) -> int:
        """CRC-32 of ``size`` bytes as they lie in the board's flash, from ``offset`` of the image on."""
        crc: int = struct.unpack("<I", self._request(CHECK, struct.pack("<II", offset, size), 4))[0]
        return crc

    def bye(self) -> None:
        """Let the firmware end; where the answer is lost, it has ended all the same."""
        with contextlib.suppress(LinkError):
            self._request(BYE, b"", 0)

    def _limit(self, size: int) -> float:
        """Seconds in which ``size`` bytes have gone over the line, and what they ask for has been done."""
        return self._timeout_s + size * self._byte_s

    def _request(self, kind: int, payload: bytes, answer_bytes: int, more_s: float = 0.0) -> bytes:
        """Send until the answer of ``answer_bytes`` comes; ``more_s``: seconds beyond the usual ones."""
        self._sequence = (self._sequence + 1) % 2**32
        data = encode(Frame(kind, self._sequence, payload))
        limit = self._limit(len(data) + len(encode(Frame(kind, 0, bytes(answer_bytes))))) + more_s
        for _ in range(self._attempts):
            deadline = time.monotonic() + limit
            self._transport.write(data, limit)
            for frame in self._frames(deadline):
                if frame.type == FAULT and len(frame.payload) == _FAULT.size:
                    raise self._faults.trap(fault_of(frame.payload))
                if frame.sequence != self._sequence or frame.type not in (kind | ANSWER, ERROR):
                    continue  # the answer to an earlier request, come late or twice
                if frame.type == ERROR or len(frame.payload) != answer_bytes:
                    raise _refused(kind, frame, answer_bytes)
                return frame.payload
            self._decoder.forget()
        if (pc := self._transport.program_counter()) is not None:
            raise self._faults.hang(f"no answer to {_NAMES[kind]} within {limit:.3g} s", pc)
        raise LinkError(
            f"no answer to {_NAMES[kind]} within {limit:.3g} s, sent {_times(self._attempts)}",
            remedy="check the connection; a slow board may need a longer time limit (--timeout)",
        )

    def _frames(self, deadline: float) -> Iterator[Frame]:
        """Frames as they come, until the time is over."""
        while data := self._transport.read(max(0.0, deadline - time.monotonic())):
            yield from self._decoder.feed(data)
            if time.monotonic() > deadline:
                return


def fault_of(payload: bytes) -> Fault:
    """The payload of a FAULT frame, read."""
    vector, status, *addresses = _FAULT.unpack(payload)
    return Fault(vector, status, *(None if value == _NOT_KNOWN else value for value in addresses))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _refused(kind: int, frame: Frame, answer_bytes: int) -> LinkError:
    if frame.type == ERROR:
        code = int.from_bytes(frame.payload[:4], "little")
        reason = _REASONS.get(code, f"reason {code}")
    else:
        reason = f"the answer has {len(frame.payload)} bytes, not {answer_bytes}"
    return LinkError(f"the firmware refused {_NAMES[kind]}: {reason}", remedy="build the firmware again")
