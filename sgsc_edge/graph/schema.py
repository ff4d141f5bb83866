"""The part of the TFLite flatbuffers schema that sgsc-edge reads and writes, as data.

Source: ``schema.fbs`` version 3 of TensorFlow Lite. A table is its fields in declaration order; the
position is the vtable slot. Each field is ``name:type`` or ``name:type=default``:

- ``i8 u8 i32 u32 u64 f32 bool``: a scalar;
- ``string``: UTF-8 text;
- ``[i32]``: a vector of scalars, read as a NumPy array; ``[u8]@16`` is written at a
  multiple of 16 bytes (converters that do not keep to that are read all the same);
- ``Tensor`` and ``[Tensor]``: a table and a vector of tables;
- ``union``: a table whose kind stands in the slot before it (see ``OPTIONS``);
- ``-``: a slot that is neither read nor written (``presence`` reports whether it is set).

``flatbuffer.py`` turns bytes into nested dicts after these tables and back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from sgsc_edge.graph.ir import Activation, DType, Padding

FILE_IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3

SCALARS: Mapping[str, np.dtype[np.generic]] = MappingProxyType(
    {
        "i8": np.dtype("int8"),
        "u8": np.dtype("uint8"),
        "bool": np.dtype("bool"),
        "i32": np.dtype("<i4"),
        "u32": np.dtype("<u4"),
        "f32": np.dtype("<f4"),
        "i64": np.dtype("<i8"),
        "u64": np.dtype("<u8"),
    }
)


@dataclass(frozen=True)
class Field:
    """One slot of a table; ``type`` is a key of ``SCALARS``, a table name, ``string``, ``union`` or ``-``."""

    name: str
    type: str
    vector: bool
    align: int
    default: float

    @property
    def scalar(self) -> np.dtype[np.generic] | None:
        """The little-endian dtype of a scalar or of a vector's elements; None for the other kinds."""
        return SCALARS.get(self.type)

    @property
    def inline_bytes(self) -> int:
        """Bytes of the slot inside its table: the scalar itself, or a 32-bit offset."""
        return 4 if self.vector or self.scalar is None else self.scalar.itemsize


_FIELD = re.compile(r"(\w+):(\[)?(\w+|-)\]?(?:@(\d+))?(?:=(-?\d+))?")


def _table(text: str) -> tuple[Field, ...]:
    fields = []
    for word in text.split():
        match = _FIELD.fullmatch(word)
        if match is None:
            raise ValueError(f"schema field {word!r}")
        name, bracket, kind, align, default = match.groups()
        fields.append(Field(name, kind, bracket is not None, int(align or 0), float(default or 0)))
    return tuple(fields)


TABLES: Mapping[str, tuple[Field, ...]] = MappingProxyType(
    {
        name: _table(text)
        for name, text in {
            "Model": """version:u32 operator_codes:[OperatorCode] subgraphs:[SubGraph] description:string
                buffers:[Buffer] metadata_buffer:[i32] metadata:[Metadata] signature_defs:-""",
            "OperatorCode": """deprecated_builtin_code:i8 custom_code:string version:i32=1
                builtin_code:i32""",
            "SubGraph": """tensors:[Tensor] inputs:[i32] outputs:[i32] operators:[Operator]
                name:string""",
            "Tensor": """shape:[i32] type:i8 buffer:u32 name:string quantization:Quantization
                is_variable:bool sparsity:- shape_signature:[i32] has_rank:bool variant_tensors:-
                external_buffer:u32""",
            "Quantization": """min:[f32] max:[f32] scale:[f32] zero_point:[i64] details_type:u8
                details:- quantized_dimension:i32""",
            "Operator": """opcode_index:u32 inputs:[i32] outputs:[i32] options_type:u8 options:union
                custom_options:[u8] custom_options_format:i8 mutating_variable_inputs:-
                intermediates:[i32] large_custom_options_offset:u64 large_custom_options_size:u64
                options2_type:u8 options2:-""",
            "Buffer": "data:[u8]@16 offset:u64 size:u64",
            "Metadata": "name:string buffer:u32",
            "Conv2DOptions": """padding:i8 stride_w:i32 stride_h:i32 activation:i8
                dilation_w:i32=1 dilation_h:i32=1 quantized_bias_type:i8""",
            "DepthwiseConv2DOptions": """padding:i8 stride_w:i32 stride_h:i32 depth_multiplier:i32
                activation:i8 dilation_w:i32=1 dilation_h:i32=1""",
            "Pool2DOptions": """padding:i8 stride_w:i32 stride_h:i32 filter_w:i32 filter_h:i32
                activation:i8""",
            "FullyConnectedOptions": """activation:i8 weights_format:i8 keep_num_dims:bool
                asymmetric_quantize_inputs:bool quantized_bias_type:i8""",
            "SoftmaxOptions": "beta:f32",
            "ConcatenationOptions": "axis:i32 activation:i8",
            "AddOptions": "activation:i8 pot_scale_int16:bool=1",
            "ReshapeOptions": "new_shape:[i32]",
            "MulOptions": "activation:i8",
            "ReducerOptions": "keep_dims:bool",
            "LeakyReluOptions": "alpha:f32",
            "ResizeNearestNeighborOptions": "align_corners:bool half_pixel_centers:bool",
            "ResizeBilinearOptions": """new_height:- new_width:- align_corners:bool
                half_pixel_centers:bool""",
            "L2NormOptions": "activation:i8",
            "BatchMatMulOptions": "adj_x:bool adj_y:bool asymmetric_quantize_inputs:bool",
            "GatherOptions": "axis:i32 batch_dims:i32",
            "StridedSliceOptions": """begin_mask:i32 end_mask:i32 ellipsis_mask:i32 new_axis_mask:i32
                shrink_axis_mask:i32 offset:bool""",
            "PackOptions": "values_count:i32 axis:i32",
            "SplitOptions": "num_splits:i32",
            "UnpackOptions": "num:i32 axis:i32",
            "SubOptions": "activation:i8 pot_scale_int16:bool=1",
        }.items()
    }
)

#: Table name -> its number in the union ``BuiltinOptions``; other numbers are left unread.
OPTIONS: Mapping[str, int] = MappingProxyType(
    {
        "Conv2DOptions": 1,
        "DepthwiseConv2DOptions": 2,
        "Pool2DOptions": 5,
        "FullyConnectedOptions": 8,
        "SoftmaxOptions": 9,
        "ConcatenationOptions": 10,
        "AddOptions": 11,
        "ReshapeOptions": 17,
        "MulOptions": 21,
        "ReducerOptions": 27,
        "SubOptions": 28,
        "SplitOptions": 35,
        "UnpackOptions": 64,
        "StridedSliceOptions": 32,
        "PackOptions": 59,
        "GatherOptions": 23,
        "BatchMatMulOptions": 101,
        "L2NormOptions": 12,
        "ResizeBilinearOptions": 15,
        "ResizeNearestNeighborOptions": 74,
        "LeakyReluOptions": 75,
    }
)

#: Element types by their number in the enum ``TensorType``; those the device graph knows, then the rest.
TENSOR_TYPES: Mapping[int, DType] = MappingProxyType(
    {
        0: DType.FLOAT32,
        2: DType.INT32,
        3: DType.UINT8,
        4: DType.INT64,
        6: DType.BOOL,
        7: DType.INT16,
        9: DType.INT8,
        17: DType.INT4,
    }
)
OTHER_TENSOR_TYPES: Mapping[int, tuple[str, int]] = MappingProxyType(
    {  # name and bits an element (0: no fixed size)
        1: ("float16", 16),
        5: ("string", 0),
        8: ("complex64", 64),
        10: ("float64", 64),
        11: ("complex128", 128),
        12: ("uint64", 64),
        13: ("resource", 0),
        14: ("variant", 0),
        15: ("uint32", 32),
        16: ("uint16", 16),
        18: ("bfloat16", 16),
        19: ("int2", 2),
        20: ("uint4", 4),
        21: ("float8_e4m3fn", 8),
        22: ("float8_e5m2", 8),
    }
)
PADDINGS: Mapping[int, Padding] = MappingProxyType({0: Padding.SAME, 1: Padding.VALID})
ACTIVATIONS: Mapping[int, Activation] = MappingProxyType(
    {0: Activation.NONE, 1: Activation.RELU, 2: Activation.RELU_N1_TO_1, 3: Activation.RELU6}
)

#: Number of the enum ``BuiltinOperator`` that means "named by custom_code".
CUSTOM_OPERATOR = 32
