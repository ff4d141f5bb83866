"""Damaged files: seeded mutations of the files of a build, blind ones and ones that know the format.

``mutant(name, data, donor, seed, draw)`` gives the damaged bytes and what was done. ``donor`` is the same
file of another build. Equal arguments give equal bytes; ``draws`` gives numbers whose mutants all differ.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
import struct
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from sgsc_edge.errors import SgscError
from sgsc_edge.graph import flatbuffer
from sgsc_edge.graph.flatbuffer import Span

Random = np.random.Generator
Mutator = Callable[[bytes, bytes, Random], bytes]

_INTEGERS = (0, 1, -1, 2, 127, 128, 255, 65535, 2**31 - 1, -(2**31), 2**31, 2**32 - 1, 2**63 - 1, -(2**63))
_REALS = (0.0, -0.0, -1.0, 1e-45, 1e-38, 1e38, 3.5, float("inf"), float("-inf"), float("nan"))
_TEXTS = ("", "x" * 70_000, "../../etc/passwd", "/etc/passwd", "a\0b", "\u202e\U0001f600", "%s%n", "-1")


def mutant(name: str, data: bytes, donor: bytes, seed: int, draw: int) -> tuple[bytes, str]:
    """The bytes of a file damaged in one way, and the name of that way; never the original's bytes."""
    mutators = MUTATORS[name]
    random = np.random.default_rng([seed, list(MUTATORS).index(name), draw])
    while True:
        how = str(random.choice(list(mutators)))
        try:
            made = mutators[how](data, donor, random)
        except _CANNOT:  # a value that its own writer refuses
            continue
        if made != data:
            return made, how


def draws(name: str, data: bytes, donor: bytes, seed: int, count: int) -> list[int]:
    """The first ``count`` draws whose mutants differ from each other."""
    seen: set[bytes] = set()
    found = []
    for draw in itertools.count():
        digest = hashlib.sha256(mutant(name, data, donor, seed, draw)[0]).digest()
        if digest not in seen:
            found.append(draw)
            seen.add(digest)
        if len(found) == count:
            break
    return found


def means_the_same(name: str, data: bytes, other: bytes) -> bool:
    """Whether two files say the same in other bytes: spaces, order, gaps, checksums."""
    try:
        return bool(_meaning(name, data) == _meaning(name, other))
    except Exception:  # one of them says nothing: readers of foreign bytes raise what they like
        return False


def _meaning(name: str, data: bytes) -> object:
    if name.endswith(".json"):
        return json.dumps(json.loads(data), sort_keys=True)
    if name.endswith(".toml"):
        return json.dumps(tomllib.loads(data.decode()), default=str, sort_keys=True)
    if name.endswith(".onnx"):
        return onnx.ModelProto.FromString(data).SerializeToString(deterministic=True)
    if name.endswith(".npz"):
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        return {key: (one.dtype.str, one.shape, one.tobytes()) for key, one in arrays.items()}
    return flatbuffer.encode(flatbuffer.decode(data, where=name))


# What writers raise on values that their formats cannot hold.
_CANNOT = (ValueError, TypeError, OverflowError, struct.error, KeyError, AttributeError, SgscError)


def _pick(random: Random, values: Any) -> Any:
    return values[int(random.integers(len(values)))]


# --- blind ----------------------------------------------------------------------------------------


def _flip_bits(data: bytes, donor: bytes, random: Random) -> bytes:
    made = bytearray(data)
    for _ in range(int(random.integers(1, 9))):
        made[int(random.integers(len(made)))] ^= 1 << int(random.integers(8))
    return bytes(made)


def _set_bytes(data: bytes, donor: bytes, random: Random) -> bytes:
    made = bytearray(data)
    start, size = int(random.integers(len(made))), int(random.integers(1, 17))
    made[start : start + size] = bytes([_pick(random, (0, 1, 0x7F, 0x80, 0xFF))]) * len(
        made[start : start + size]
    )
    return bytes(made)


def _truncate(data: bytes, donor: bytes, random: Random) -> bytes:
    return data[: int(random.integers(len(data)))]


def _insert(data: bytes, donor: bytes, random: Random) -> bytes:
    at, size = int(random.integers(len(data) + 1)), int(random.integers(1, 65))
    return data[:at] + random.bytes(size) + data[at:]


def _remove(data: bytes, donor: bytes, random: Random) -> bytes:
    at, size = int(random.integers(len(data))), int(random.integers(1, 65))
    return data[:at] + data[at + size :]


def _repeat(data: bytes, donor: bytes, random: Random) -> bytes:
    at, size = int(random.integers(len(data))), int(random.integers(1, 257))
    return data[: at + size] + data[at:]


def _splice(data: bytes, donor: bytes, random: Random) -> bytes:
    """The beginning of one file and the end of the other, mostly cut at the same place."""
    at = int(random.integers(min(len(data), len(donor))))
    from_donor = at if random.random() < 0.7 else int(random.integers(len(donor)))
    return data[:at] + donor[from_donor:]


BLIND: Mapping[str, Mutator] = {
    "bit flips": _flip_bits,
    "bytes set": _set_bytes,
    "truncation": _truncate,
    "inserted span": _insert,
    "removed span": _remove,
    "repeated span": _repeat,
    "splice": _splice,
}


# --- .tflite --------------------------------------------------------------------------------------

_KEYS = (
    r"shape|type|scale|zero_point|quantized_dimension|inputs|outputs|opcode_index|builtin_code|buffer|options"
)


def _flatbuffer_word(wanted: str, width: str) -> Mutator:
    """Change one little-endian word of the file's structure: of parts whose path matches ``wanted``."""

    def mutate(data: bytes, donor: bytes, random: Random) -> bytes:
        spans: list[Span] = []
        flatbuffer.decode(data, where="", spans=spans)
        chosen = _pick(random, [span for span in spans if re.search(wanted, span.path)])
        size = struct.calcsize(width)
        at = chosen.start + size * int(random.integers(max(1, chosen.size // size)))
        (value,) = struct.unpack_from(width, data, at)
        limit = 1 << 8 * size
        near = [value + step for step in (-8, -4, -1, 1, 4, 8)]
        other = _pick(random, [*near, *_INTEGERS, int(random.integers(len(data)))]) % limit
        made = bytearray(data)
        struct.pack_into(width, made, at, other)
        return bytes(made)

    return mutate


def _flatbuffer_fields(data: bytes, donor: bytes, random: Random) -> bytes:
    """Give one to three fields of the tables other values, and write the file anew, well-formed."""
    model = flatbuffer.decode(data, where="")
    for _ in range(int(random.integers(1, 4))):
        places = [place for place in _places(model) if re.search(_KEYS, place[2]) or random.random() < 0.1]
        holder, key, _ = _pick(random, places)
        holder[key] = _other_value(holder[key], random)
    return flatbuffer.encode(model)


def _places(value: Any, path: str = "") -> list[tuple[Any, Any, str]]:
    """Every scalar, text and vector of a decoded file: its holder, its key there, its path."""
    found: list[tuple[Any, Any, str]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        below = f"{path}.{key}"
        if isinstance(item, dict | list):
            found += _places(item, below)
        elif item is not None:
            found.append((value, key, below))
    return found


def _other_value(value: Any, random: Random) -> Any:
    if isinstance(value, np.ndarray):
        made = value.copy()
        kind = int(random.integers(4))
        if kind == 0 or not made.size:
            return np.resize(made, int(random.integers(0, 2 * made.size + 2)))
        if kind == 1:
            return np.roll(made, 1)
        at = int(random.integers(made.size))
        made[at] = _other_value(made[at].item(), random) if kind == 2 else made[-1 - at]
        return made
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return _pick(random, (*_REALS, value * 2, value * 1.001))
    if isinstance(value, int):
        return _pick(random, (*_INTEGERS, value + 1, value - 1, value * 2, int(random.integers(0, 200))))
    return _pick(random, _TEXTS) if isinstance(value, str) else None


def _bomb_shapes(data: bytes, donor: bytes, random: Random) -> bytes:
    """State large shapes for several tensors."""
    model = flatbuffer.decode(data, where="")
    tensors = model["subgraphs"][0]["tensors"]
    factor = int(_pick(random, (16, 1 << 10, 1 << 16, 1 << 28)))
    for tensor in tensors:
        if tensor["shape"] is not None and len(tensor["shape"]) and random.random() < 0.5:
            axis = int(random.integers(1, max(2, len(tensor["shape"]))))
            sizes = [int(size) for size in tensor["shape"]]
            sizes[axis % len(sizes)] *= factor
            tensor["shape"] = np.array(sizes, np.int32)
    return flatbuffer.encode(model)


TFLITE: Mapping[str, Mutator] = {
    **BLIND,
    "flatbuffer: a word of a table": _flatbuffer_word(r"^(?!.*( vtable| length)$)", "<I"),
    "flatbuffer: a vtable entry": _flatbuffer_word(r" vtable$", "<H"),
    "flatbuffer: a vector's length": _flatbuffer_word(r" length$", "<I"),
    "flatbuffer: values of fields": _flatbuffer_fields,
    "flatbuffer: more values of fields": _flatbuffer_fields,
    "flatbuffer: large shapes": _bomb_shapes,
}


# --- .onnx ----------------------------------------------------------------------------------------


def _proto(edit: Callable[[onnx.ModelProto, Random], object]) -> Mutator:
    def mutate(data: bytes, donor: bytes, random: Random) -> bytes:
        model = onnx.ModelProto.FromString(data)
        edit(model, random)
        made: bytes = model.SerializeToString(deterministic=True)
        return made

    return mutate


def _edit_attribute(model: onnx.ModelProto, random: Random) -> None:
    node = _pick(random, [node for node in model.graph.node if node.attribute])
    attribute = _pick(random, node.attribute)
    kind = int(random.integers(4))
    if kind == 0:
        node.attribute.remove(attribute)
    elif kind == 1:
        value = _pick(random, (*_INTEGERS[:-1], *_REALS, "text", [1, -1], [1.5], [], list(range(1000))))
        made = helper.make_attribute(attribute.name, value, attr_type=None if value != [] else 7)
        attribute.CopyFrom(made)
    elif attribute.ints:
        at = int(random.integers(len(attribute.ints)))
        attribute.ints[at] = int(_pick(random, (-1, 0, 2, 7, 2**31, 2**62, -(2**62), 100_000)))
    else:
        attribute.i = int(_pick(random, (-1, 0, 2, 7, 2**31, 2**62, -(2**62), 100_000)))


def _edit_initializer(model: onnx.ModelProto, random: Random) -> None:
    tensor = _pick(random, model.graph.initializer)
    kind = int(random.integers(7))
    if kind == 0:
        tensor.data_type = int(random.integers(0, 40))
    elif kind == 1 and tensor.dims:
        tensor.dims[int(random.integers(len(tensor.dims)))] = int(_pick(random, (0, -1, 1, 3, 2**31, 2**62)))
    elif kind == 2:
        tensor.dims.append(int(_pick(random, (0, 1, 2, 2**40))))
    elif kind == 3 and tensor.raw_data:
        tensor.raw_data = _flip_bits(tensor.raw_data, b"", random)
    elif kind == 4 and tensor.raw_data:
        tensor.raw_data = tensor.raw_data[: int(random.integers(len(tensor.raw_data)))]
    elif kind == 5:
        model.graph.initializer.add().CopyFrom(tensor)
    else:
        tensor.raw_data = np.array(_pick(random, _REALS), np.float32).tobytes()


def _edit_external(model: onnx.ModelProto, random: Random) -> None:
    tensor = _pick(random, model.graph.initializer)
    if random.random() < 0.7:
        tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    places = ("../secret", "/etc/passwd", "model.tflite", ".", "", "a/../../b", "/dev/zero", "manifest.json")
    entries = {"location": _pick(random, places), "offset": _pick(random, ("0", "-1", "x", str(2**62)))}
    entries["length"] = _pick(random, ("4", "-5", "", str(2**62), str(len(tensor.raw_data))))
    for key, value in entries.items():
        if random.random() < 0.8:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)


def _many_external(model: onnx.ModelProto, random: Random) -> None:
    """Many initializers that each read a whole file, which is there once."""
    place = str(_pick(random, ("preservation.npz", "model.tflite", "manifest.json")))
    for number in range(int(_pick(random, (3, 300, 10_000)))):
        tensor = model.graph.initializer.add(name=f"many{number}", data_type=TensorProto.UINT8, dims=[1])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)


def _edit_nodes(model: onnx.ModelProto, random: Random) -> None:
    nodes = model.graph.node
    node = _pick(random, nodes)
    kind = int(random.integers(9))
    if kind == 0:
        nodes.remove(node)
    elif kind == 1:
        nodes.add().CopyFrom(node)
    elif kind == 2 and node.input:
        node.input[int(random.integers(len(node.input)))] = _pick(random, nodes).output[0]
    elif kind == 3 and node.input:
        node.input[int(random.integers(len(node.input)))] = _pick(random, model.graph.initializer).name
    elif kind == 4:
        node.op_type = _pick(
            random, ("Relu", "Conv", "Loop", "If", "ConstantOfShape", "Tile", "Foo", "MaxPool", "Expand")
        )
    elif kind == 5:
        node.domain = _pick(random, ("com.microsoft", "ai.onnx.ml", "evil", "ai.onnx"))
    elif kind == 6 and len(node.input) > 1:
        node.input[0], node.input[1] = node.input[1], node.input[0]
    elif kind == 7:
        node.output[0] = _pick(random, (_pick(random, nodes).output[0], "", "x" * 5000))
    else:
        del node.input[int(random.integers(len(node.input))) :]


def _edit_header(model: onnx.ModelProto, random: Random) -> None:
    kind = int(random.integers(7))
    if kind == 0:
        model.ir_version = int(_pick(random, (0, 1, 3, 11, 99, 2**62)))
    elif kind == 1:
        model.opset_import[0].version = int(_pick(random, (0, 1, 9, 13, 17, 22, 99, 2**62)))
    elif kind == 2:
        model.opset_import.add().CopyFrom(model.opset_import[0])
    elif kind == 3:
        value = _pick(random, (*model.graph.input, *model.graph.output, *model.graph.value_info))
        dims = value.type.tensor_type.shape.dim
        dims[int(random.integers(len(dims)))].dim_value = int(_pick(random, (0, -1, 1, 2, 2**20, 2**62)))
    elif kind == 4:
        value = _pick(random, (*model.graph.input, *model.graph.output))
        value.type.tensor_type.elem_type = int(random.integers(0, 40))
    elif kind == 5:
        entry = model.metadata_props.add()
        entry.key, entry.value = _pick(random, ("sgsc.channels", "sgsc.input", "k")), _pick(random, _TEXTS)
    else:
        model.graph.input.add().CopyFrom(model.graph.input[0])


def _bomb_node(model: onnx.ModelProto, random: Random) -> None:
    """Nodes that make very much of little: constants of stated shape, tiling, nested subgraphs."""
    kind = int(random.integers(3))
    nodes = model.graph.node
    if kind == 2:
        depth = int(_pick(random, (3, 10, 20)))
        inner = helper.make_graph([], "g", [], [])
        for _ in range(depth):
            inner = helper.make_graph([helper.make_node("If", ["c"], [], then_branch=inner)], "g", [], [])
        nodes.insert(0, helper.make_node("If", ["c"], ["nested"], then_branch=inner))
        return
    side = int(_pick(random, (1 << 14, 1 << 18, 1 << 31)))
    shape = np.array([side, side], np.int64)
    model.graph.initializer.add().CopyFrom(onnx.numpy_helper.from_array(shape, "bomb_shape"))
    if kind == 0:
        nodes.insert(0, helper.make_node("ConstantOfShape", ["bomb_shape"], ["bomb"]))
    else:
        model.graph.initializer.add().CopyFrom(
            onnx.numpy_helper.from_array(np.ones((1, 1), np.float32), "one")
        )
        nodes.insert(
            0,
            helper.make_node("Tile" if random.random() < 0.5 else "Expand", ["one", "bomb_shape"], ["bomb"]),
        )
    if random.random() < 0.7:  # its result is used
        nodes.insert(1, helper.make_node("ReduceSum", ["bomb"], ["bomb_sum"], keepdims=0))
        first = nodes[2]
        nodes.insert(2, helper.make_node("Add", [first.input[0], "bomb_sum"], ["bombed"]))
        first.input[0] = "bombed"


ONNX: Mapping[str, Mutator] = {
    **BLIND,
    "protobuf: attributes": _proto(_edit_attribute),
    "protobuf: initializers": _proto(_edit_initializer),
    "protobuf: more initializers": _proto(_edit_initializer),
    "protobuf: external data": _proto(_edit_external),
    "protobuf: much external data": _proto(_many_external),
    "protobuf: nodes": _proto(_edit_nodes),
    "protobuf: header, inputs, outputs": _proto(_edit_header),
    "protobuf: large values": _proto(_bomb_node),
}


# --- certificate.json -----------------------------------------------------------------------------


def _json_value(data: bytes, donor: bytes, random: Random) -> bytes:
    """Replace, remove, add or exchange values; the document stays JSON."""
    document = json.loads(data)
    for _ in range(int(random.integers(1, 3))):
        holder, key, _ = _pick(random, _json_places(document))
        kind = int(random.integers(6))
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[_pick(random, _TEXTS)] = _pick(random, (None, 1, holder[key]))
        elif kind == 2:
            other, other_key, _ = _pick(random, _json_places(document))
            holder[key], other[other_key] = other[other_key], holder[key]
        elif kind == 3 and isinstance(holder[key], list) and holder[key]:
            holder[key] = _pick(random, (holder[key] * 2, holder[key][:-1], holder[key] * 5000))
        else:
            holder[key] = _json_other(holder[key], random)
    return json.dumps(document).encode()


def _json_places(value: Any, path: str = "") -> list[tuple[Any, Any, str]]:
    found: list[tuple[Any, Any, str]] = []
    items = list(value.items() if isinstance(value, dict) else enumerate(value))
    for key, item in items:
        found.append((value, key, f"{path}.{key}"))
        if isinstance(item, dict | list):
            found += _json_places(item, f"{path}.{key}")
    return found


def _json_other(value: Any, random: Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float) and random.random() < 0.5:
        return _pick(random, (value + 1, value * 2, value / 2, -value, value + 1e-9))
    if isinstance(value, str) and random.random() < 0.5:
        return _pick(random, ("PASSED", "FAILED", "tflm", "ok", "recorded", "not_run", "accuracy", "0" * 64))
    wild = (None, True, -1, 0, 10**400, 1e308, float("nan"), float("inf"), [], {}, "\ud800", *_TEXTS)
    return _pick(random, (*wild, [[]] * 3, {"a": {}}))


def _json_text(data: bytes, donor: bytes, random: Random) -> bytes:
    """Text that writers of JSON do not make: depth, duplicate keys, encodings, numbers of many digits."""
    text = data.decode()
    kind = int(random.integers(7))
    at = _pick(random, [match.start() for match in re.finditer(r": ", text)]) + 2
    if kind == 0:
        depth = int(_pick(random, (100, 5_000, 500_000)))
        return (text[:at] + "[" * depth + "]" * depth + "," + text[at:]).encode()
    if kind == 1:
        line = _pick(random, [line for line in text.splitlines() if line.endswith(",")])
        return text.replace(line, f"{line}\n{line}", 1).encode()
    if kind == 2:
        return text.encode(_pick(random, ("utf-16", "utf-32", "utf-8-sig")))
    if kind == 3:
        digits = int(_pick(random, (20, 5_000, 200_000)))
        return re.sub(r"\d+(?=[,\n])", "9" * digits, text, count=int(random.integers(1, 40))).encode()
    if kind == 4:
        return re.sub(
            r"\d+(?=[,\n])", _pick(random, ("NaN", "-Infinity", "1e999", "-0", "1.0")), text, count=3
        ).encode()
    if kind == 5:
        return (text[:at] + " " * 100_000 + text[at:]).encode()
    return (text[:at] + '"\\ud800\\u0000",' + text[at:]).encode()


JSON: Mapping[str, Mutator] = {
    **BLIND,
    "JSON: values": _json_value,
    "JSON: more values": _json_value,
    "JSON: yet more values": _json_value,
    "JSON: text": _json_text,
}


# --- preservation.npz -----------------------------------------------------------------------------


def _arrays(edit: Callable[[dict[str, Any], Random], object]) -> Mutator:
    def mutate(data: bytes, donor: bytes, random: Random) -> bytes:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        edit(arrays, random)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=True, **arrays)
        return buffer.getvalue()

    return mutate


def _edit_values(arrays: dict[str, Any], random: Random) -> None:
    name = _pick(random, list(arrays))
    array = arrays[name] = arrays[name].copy()
    if not array.size:
        return
    flat = array.reshape(-1)
    for _ in range(int(random.integers(1, 4))):
        at = int(random.integers(flat.size))
        if array.dtype.kind == "f":
            flat[at] = _pick(random, (*_REALS, -flat[at], flat[at] + 1))
        elif array.dtype.kind == "U":
            flat[at] = _pick(random, (*_TEXTS[2:], flat[-1 - at]))
        elif array.dtype.kind == "b":
            flat[at] = not flat[at]
        else:
            info = np.iinfo(array.dtype)
            flat[at] = _pick(random, (info.min, info.max, 0, flat[-1 - at], min(info.max, int(flat[at]) + 1)))


def _edit_form(arrays: dict[str, Any], random: Random) -> None:
    name = _pick(random, list(arrays))
    array = arrays[name]
    kind = int(random.integers(8))
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        arrays[name] = array.astype(_pick(random, ("f8", "i2", "u1", "U3", "O", "c8", ">i8", "S4")))
    elif kind == 2:
        arrays[name] = array.reshape(-1)
    elif kind == 3:
        arrays[name] = array[: len(array) // 2]
    elif kind == 4:
        arrays[name] = np.asfortranarray(array[::-1])
    elif kind == 5:
        arrays[name] = np.array([], array.dtype)
    elif kind == 6:
        arrays[name] = np.array(_pick(random, (0, "x", None, {"a": 1})))
    else:
        arrays[f"{_pick(random, ('must_keep', 'certify', 'extra'))}_control_logits"] = array


def _npy_header(data: bytes, donor: bytes, random: Random) -> bytes:
    """Other text in the header of an entry, as long as the one that was there."""
    entries = [match.span() for match in re.finditer(rb"\{'descr': .*?\n", data, re.DOTALL)]
    start, end = _pick(random, entries)
    header = data[start:end].decode("latin-1")
    shapes = ("(9999999999, 9999999999)", "(-1,)", "(2147483648, 8)", "()", "(1.5,)", "(10**9,)", "f()")
    kinds = ("'|O'", "'<U99999999'", "'|V8'", "'<f2'", "'|S0'", "[('a','i4')]", "__import__('os')")
    if random.random() < 0.5:
        made = re.sub(r"'shape': \(.*?\)", lambda match: f"'shape': {_pick(random, shapes)}", header)
    else:
        made = re.sub(r"'descr': '.*?'", lambda match: f"'descr': {_pick(random, kinds)}", header)
    made = made.rstrip("\n ").ljust(len(header) - 1)[: len(header) - 1] + "\n"
    return _rezipped(data[:start] + made.encode("latin-1") + data[end:], data)


def _rezipped(stored: bytes, original: bytes) -> bytes:
    """An archive of the entries of ``original``, their bytes taken from ``stored``, with right checksums."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(original)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            name_size, extra_size = struct.unpack_from("<HH", stored, entry.header_offset + 26)
            start = entry.header_offset + 30 + name_size + extra_size
            new.writestr(zipfile.ZipInfo(entry.filename), stored[start : start + entry.file_size])
    return buffer.getvalue()


def _entry_bytes(data: bytes, donor: bytes, random: Random) -> bytes:
    """Damage inside one entry, header or values, under a right checksum."""
    blind = _pick(random, list(BLIND.values()))
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = _pick(random, old.namelist())
        for name in old.namelist():
            content = old.read(name)
            near = int(_pick(random, (128, len(content))))
            if name == chosen:
                content = blind(content[:near], content[::-1], random) + content[near:]
            new.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _zip_form(data: bytes, donor: bytes, random: Random) -> bytes:
    """Entries that are repeated, renamed, compressed, or far larger than the archive."""
    kind = int(random.integers(5))
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        names = old.namelist()
        chosen = _pick(random, names)
        for name in names:
            content = old.read(name)
            packing = zipfile.ZIP_DEFLATED if kind == 0 else zipfile.ZIP_STORED
            if kind == 1 and name == chosen:
                name = _pick(random, ("../x.npy", "x", "", name.upper(), "a/b.npy"))
            if kind == 2 and name == chosen:
                header = io.BytesIO()
                rows = int(_pick(random, (1 << 17, 1 << 21)))
                np.lib.format.write_array_header_1_0(
                    header, {"descr": "<f4", "fortran_order": False, "shape": (rows, 10)}
                )
                content, packing = header.getvalue() + bytes(40 * rows), zipfile.ZIP_DEFLATED
            if kind == 3 and name == chosen:
                content = _flip_bits(content[:128], b"", random) + content[128:]
            new.writestr(zipfile.ZipInfo(name), content, packing)
            if kind == 4 and name == chosen:
                new.writestr(zipfile.ZipInfo(name + ".copy.npy"), content)
    return buffer.getvalue()


NPZ: Mapping[str, Mutator] = {
    **BLIND,
    "npz: values": _arrays(_edit_values),
    "npz: more values": _arrays(_edit_values),
    "npz: dtypes, shapes, names": _arrays(_edit_form),
    "npz: headers": _npy_header,
    "npz: bytes of an entry": _entry_bytes,
    "npz: more bytes of an entry": _entry_bytes,
    "npz: archive": _zip_form,
}


# --- sgsc.toml ------------------------------------------------------------------------------------

_TOML_VALUES = (
    *(
        '""',
        '"x"',
        "true",
        "-1",
        "0",
        "1e999",
        "nan",
        "-inf",
        "0x7fffffffffffffffff",
        "9" * 5000,
        "1979-05-27",
    ),
    *(
        "[]",
        "[[]]",
        "{}",
        "{ a = 1 }",
        '"../../x"',
        '"/etc/passwd"',
        r'"\u0000"',
        r'"\U0001F600"',
        "'''\na'''",
    ),
    *('"model:"', '":build"', '"model:build:x"', '"os:system"', "[1, 8, 8, 8]", "[0, 8]", "[-1]", "[1e3]"),
    *("[" * 200 + "]" * 200, "[" * 5000 + "]" * 5000, "{a=" * 50 + "1" + "}" * 50, '"' + "x" * 100_000 + '"'),
    *('"999999999999 MB"', '"0 B"', '"1e9x"', "[[1], {}]", "1_0", "+1", "0.1.2", "=", '"unclosed'),
)


def _toml_value(data: bytes, donor: bytes, random: Random) -> bytes:
    lines = data.decode().splitlines()
    at = _pick(random, [index for index, line in enumerate(lines) if "=" in line])
    key = lines[at].split("=")[0]
    lines[at] = f"{key}= {_pick(random, _TOML_VALUES)}"
    return "\n".join(lines).encode()


def _toml_key(data: bytes, donor: bytes, random: Random) -> bytes:
    lines = data.decode().splitlines()
    at = int(random.integers(len(lines)))
    kind = int(random.integers(6))
    deep = ".".join("a" * int(_pick(random, (3, 500, 5000))))
    if kind == 0:
        lines.insert(at, lines[at])
    elif kind == 1:
        del lines[at]
    elif kind == 2:
        key = _pick(random, ("unknown", '""', deep, "model.x", "a.b.c"))
        lines.insert(at, f"{key} = 1")
    elif kind == 3:
        lines.insert(at, f"[{_pick(random, ('targets.x.compress', 'targets', deep, 'model', 'gate.x', ''))}]")
    elif kind == 4:
        lines.insert(at, f"[[{_pick(random, ('model', 'compress', 'targets', 'x'))}]]")
    else:
        lines[at] = lines[at].swapcase()
    return "\n".join(lines).encode()


TOML: Mapping[str, Mutator] = {
    **BLIND,
    "TOML: values": _toml_value,
    "TOML: more values": _toml_value,
    "TOML: keys and tables": _toml_key,
}

MUTATORS: Mapping[str, Mapping[str, Mutator]] = {
    "model.tflite": TFLITE,
    "model.qdq.onnx": ONNX,
    "certificate.json": JSON,
    "preservation.npz": NPZ,
    "sgsc.toml": TOML,
}
