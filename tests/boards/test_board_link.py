"""The link under noise: bytes lost, changed, repeated and late, against the firmware itself."""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
from firmware import built
from firmware.built import dense, image
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsc_edge.boards.description import load_board
from sgsc_edge.boards.link import HELLO, RUN, Decoder, Frame, Link, encode
from sgsc_edge.boards.virtual import VirtualBoard
from sgsc_edge.errors import LinkError

BOARD = "virtual-cortex-m4"
FAULTS = built.faults("dense", BOARD)
Way = Literal["write", "read"]
Kind = Literal["drop", "change", "repeat byte", "late", "repeat all", "lose all", "insert"]
KINDS: tuple[Kind, ...] = ("drop", "change", "repeat byte", "late", "repeat all", "lose all", "insert")


class Noise:
    """Decides what happens to byte number ``position`` of one direction; None: nothing."""

    def __init__(
        self, faults: Sequence[tuple[Way, int, Kind]] = (), *, rate: float = 0.0, seed: int = 0
    ) -> None:
        self._faults = {(way, position): kind for way, position, kind in faults}
        self._rate = rate
        self._random = random.Random(seed)

    def at(self, way: Way, position: int) -> Kind | None:
        if self._random.random() < self._rate:
            return self._random.choice(KINDS)
        return self._faults.pop((way, position), None)

    def byte(self) -> int:
        return self._random.randrange(1, 256)


class NoisyBoard:
    """A board behind a bad line."""

    def __init__(self, noise: Noise) -> None:
        self._board = VirtualBoard(image("dense", BOARD), load_board(BOARD).chip)
        self._noise = noise
        self._counts: dict[Way, int] = {"write": 0, "read": 0}
        self._late: dict[Way, bytes] = {"write": b"", "read": b""}

    def write(self, data: bytes, timeout_s: float) -> None:
        self._board.write(self._carry("write", data), timeout_s)

    def read(self, timeout_s: float) -> bytes:
        return self._carry("read", self._board.read(timeout_s))

    def program_counter(self) -> int | None:
        return None

    def _carry(self, way: Way, data: bytes) -> bytes:
        """What arrives of ``data``, behind what was late; what is late now arrives with the next."""
        arrived, self._late[way] = bytearray(self._late[way]), b""
        for index, byte in enumerate(data):
            kind = self._noise.at(way, self._counts[way])
            self._counts[way] += 1
            if kind == "late":
                self._late[way] = data[index:]
                break
            if kind == "lose all":
                break
            if kind == "change":
                arrived.append(byte ^ self._noise.byte())
            elif kind == "repeat byte":
                arrived += bytes([byte, byte])
            elif kind == "insert":
                arrived += bytes([self._noise.byte(), byte])
            elif kind == "repeat all":
                arrived += data + bytes([byte])
            elif kind != "drop":
                arrived.append(byte)
        return bytes(arrived)


def rows(count: int) -> st.SearchStrategy[list[bytes]]:
    # Inputs that look like the beginning of a frame are the hard ones.
    looks = st.sampled_from([b"SG", b"S", b"G", encode(Frame(RUN, 1, b""))[:6], b"\x00", b"\xff"])
    row = st.lists(looks, min_size=16).map(lambda parts: b"".join(parts)[:16])
    return st.lists(st.one_of(row, st.binary(min_size=16, max_size=16)), min_size=count, max_size=count)


def expected(row: bytes) -> bytes:
    return dense(np.frombuffer(row, np.int8)[None]).tobytes()


@given(
    inputs=rows(3),
    faults=st.lists(
        st.tuples(st.sampled_from(("write", "read")), st.integers(0, 160), st.sampled_from(KINDS)),
        max_size=5,
    ),
)
@settings(max_examples=60, deadline=None)
def test_after_any_few_faults_every_answer_comes_and_is_right(
    inputs: list[bytes], faults: list[tuple[Way, int, Kind]]
) -> None:
    board = NoisyBoard(Noise(faults))
    link = Link(board, 10, timeout_s=5.0, attempts=4 + 3 * len(faults), faults=FAULTS)
    assert link.hello().output_bytes == 10
    assert [link.run(row) for row in inputs] == [expected(row) for row in inputs]
    assert link.selftest() == 0
    part = image("dense", BOARD).segments[0].data[3:500]
    assert link.check(3, len(part)) == zlib.crc32(part)


@given(inputs=rows(4), seed=st.integers(0, 2**32), rate=st.sampled_from([0.002, 0.01, 0.05]))
@settings(max_examples=40, deadline=None)
def test_under_endless_noise_an_answer_is_right_or_there_is_none(
    inputs: list[bytes], seed: int, rate: float
) -> None:
    board = NoisyBoard(Noise(rate=rate, seed=seed))
    link = Link(board, 10, timeout_s=5.0, attempts=6, sequence=seed % 3, faults=FAULTS)
    for row in inputs:
        with contextlib.suppress(LinkError):
            assert link.run(row) == expected(row)


def test_a_request_that_comes_twice_is_carried_out_once() -> None:
    """The package ``traps`` counts its inferences: way 15 adds one to every later answer."""
    board = VirtualBoard(image("traps", BOARD), load_board(BOARD).chip)
    count = encode(Frame(RUN, 7, bytes([15]) + bytes(7)))
    decoder = Decoder(100)
    for data in (count, count, count, encode(Frame(RUN, 8, bytes(8)))):
        board.write(data, 5.0)
    frames = []
    while data := board.read(5.0):
        frames += list(decoder.feed(data))
    assert [(frame.sequence, frame.payload[0]) for frame in frames] == [(7, 1), (7, 1), (7, 1), (8, 1)]


# --- frames ---------------------------------------------------------------------------------------


FRAMES = st.builds(Frame, st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=40))


@given(st.lists(FRAMES, max_size=5), st.data())
def test_frames_are_found_however_the_bytes_come(frames: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(map(encode, frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    decoder = Decoder(40)
    parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [frame for part in parts for frame in decoder.feed(part)] == frames


@given(FRAMES, st.binary(max_size=60))
def test_a_frame_behind_noise_is_found(frame: Frame, noise: bytes) -> None:
    # What looks like the start of a longer frame waits for the rest of it; the frame comes again until then.
    found = list(Decoder(40).feed(noise + encode(frame) * 5))
    assert found[-1:] == [frame]


@given(FRAMES, st.data())
def test_a_changed_byte_makes_no_frame(frame: Frame, data: st.DataObject) -> None:
    sound = bytearray(encode(frame))
    sound[data.draw(st.integers(0, len(sound) - 1))] ^= data.draw(st.integers(1, 255))
    assert list(Decoder(40).feed(bytes(sound))) == []


def test_the_payload_of_one_frame_does_not_pass_for_anothers() -> None:
    first, second = encode(Frame(RUN, 1, b"first")), encode(Frame(RUN, 2, b"other"))
    assert list(Decoder(40).feed(first[:16] + second[16:])) == []


def test_a_line_that_is_dead_is_an_error_and_no_wait_without_end() -> None:
    class Dead:
        def write(self, data: bytes, timeout_s: float) -> None:
            pass

        def read(self, timeout_s: float) -> bytes:
            return b""

        def program_counter(self) -> int | None:
            return None

    with pytest.raises(LinkError, match=r"no answer to HELLO within 0\.1 s, sent 3 times") as raised:
        Link(Dead(), 10, timeout_s=0.1, attempts=3, faults=FAULTS).hello()
    assert raised.value.exit_code == 4
    assert HELLO == 1
