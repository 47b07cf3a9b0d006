"""A byte a value: from both sides bounds of L1 distances, at a quarter of the bytes.

Every layer of a shard has a scale: x' = low + step * code, where code is 0 .. 255 and low and
low + 255 * step enclose all values x. A row keeps its codes and, for every layer, the error
sum |x - x'|. A query q is clipped to the scale, to c. As all x are within, sum |q - x| is
sum |q - c| + sum |c - x|; the second sum differs from sum |c' - x'| by both errors at most.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeAlias

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Bytes: TypeAlias = NDArray[np.uint8]

AT_ONCE = 64  # bytes compared at once; layers are padded with zeros to multiples of it
ROUNDING = 2.0**-30  # more than that of sums in float64, of exact distances too
SCALE = 24  # bytes of low, step and error, float64


def padded(widths: Sequence[int]) -> NDArray[np.int64]:
    """Bytes of the codes of every layer, (L,)."""
    return -(-np.asarray(widths, np.int64) // AT_ONCE) * AT_ONCE


def record_size(widths: Sequence[int]) -> int:
    """Bytes of a row: its codes, then (low, step, error) of every layer."""
    return int(padded(widths).sum()) + SCALE * len(widths)


def encode(rows: NDArray[np.floating], widths: Sequence[int]) -> Bytes:
    """Records of the rows of one shard, (n, `record_size`) uint8.

    rows: (n, sum of widths) float32 or float16; the error of a row that is not finite is NaN or
    infinite. widths: dimensions of every layer.
    """
    rows = np.ascontiguousarray(rows, np.float32)
    finite = rows[np.isfinite(rows).all(axis=1)].astype(np.float64)
    low, step = np.zeros(len(widths)), np.ones(len(widths))
    for layer, values in enumerate(_layers(finite, widths)):
        if values.size:
            low[layer] = values.min()
            step[layer] = (values.max() - low[layer]) / 255 or 1.0
    codes, error, excess = _quantised(rows, widths, low, step)
    # The rounding of float64 in this difference and in the queries', with room to spare.
    slack = np.asarray(widths) * 2.0**-45 * np.maximum(abs(low), abs(low + 255 * step))
    records = np.empty((len(rows), record_size(widths)), np.uint8)
    records[:, : codes.shape[1]] = codes
    scales = records[:, codes.shape[1] :].view(np.float64).reshape(len(rows), len(widths), 3)
    scales[:] = np.stack(np.broadcast_arrays(low, step, error + excess + slack), axis=-1)
    return records


def l1_bounds(
    queries: Floats, shards: Sequence[Bytes], widths: Sequence[int], layers: slice
) -> Doubles:
    """Between what the sums of |q - x| over some layers lie, (2, Q, n) float64.

    NaN for rows that are not finite.

    Args:
        queries: (Q, D) float32, D the dimensions of the layers.
        shards: records of consecutive shards, (n_i, `record_size`) each.
        widths: of all layers of the records.
        layers: which of them to compare.
    """
    firsts = np.append(0, np.cumsum([len(records) for records in shards]))
    bounds = np.empty((2, len(queries), firsts[-1]))
    places = [bounds[:, :, first:end] for first, end in pairwise(firsts)]
    # Threads share shards, not rows: none waits for another one after each shard.
    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        compared = [
            pool.submit(_compare, queries, records, widths, layers, place)
            for records, place in zip(shards, places)
        ]
        for shard in compared:
            shard.result()
    return bounds


def _compare(
    queries: Floats, records: Bytes, widths: Sequence[int], layers: slice, bounds: Doubles
) -> None:
    """`l1_bounds` for one shard, into (2, Q, n) `bounds`."""
    ends = np.append(0, np.cumsum(padded(widths)))
    scales = records[:, ends[-1] :].view(np.float64).reshape(len(records), len(widths), 3)
    low, step = np.ascontiguousarray(scales[0, layers, :2].T)
    error = np.ascontiguousarray(scales[:, layers, 2])
    codes, query_error, excess = _quantised(queries, widths[layers], low, step)
    columns = records[:, ends[layers.start] : ends[layers.stop]]
    ends_of_layers = ends[layers.start + 1 : layers.stop + 1] - ends[layers.start]
    _bounds(codes, query_error, excess, columns, error, step, ends_of_layers, bounds)


def _layers(rows: NDArray[Any], widths: Sequence[int]) -> list[NDArray[Any]]:
    return np.split(rows, np.cumsum(widths)[:-1], axis=1) if len(widths) else []


def _quantised(
    rows: Floats, widths: Sequence[int], low: Doubles, step: Doubles
) -> tuple[Bytes, Doubles, Doubles]:
    """Codes (n, sum of padded widths), errors sum |c - c'| (n, L) and excess sum |x - c| (n, L)."""
    codes = np.zeros((len(rows), padded(widths).sum()), np.uint8)
    error, excess = np.zeros((2, len(rows), len(widths)))
    layers = np.asarray(widths, np.int64), padded(widths)
    _quantise(rows, *layers, low, step, codes, error, excess)
    return codes, error, excess


@numba.njit(nogil=True, fastmath={"reassoc"}, error_model="numpy", cache=True)
def _quantise(
    rows: Floats,
    widths: NDArray[np.int64],
    places: NDArray[np.int64],
    low: Doubles,
    step: Doubles,
    codes: Bytes,
    error: Doubles,
    excess: Doubles,
) -> None:
    """See `_quantised`. places: bytes of every layer."""
    for i in range(len(rows)):
        first = 0
        place = 0
        for layer in range(len(widths)):
            values = rows[i, first : first + widths[layer]]
            codes_of = codes[i, place : place + widths[layer]]
            bottom = low[layer]
            width = step[layer]
            top = bottom + 255 * width
            lost = 0.0
            outside = 0.0
            for t in range(len(values)):
                x = np.float64(values[t])
                clipped = min(max(x, bottom), top)
                code = np.rint((clipped - bottom) / width)
                codes_of[t] = np.uint8(code)
                lost += abs(clipped - (bottom + width * code))
                outside += abs(x - clipped)
            error[i, layer] = lost
            excess[i, layer] = outside
            first += widths[layer]
            place += places[layer]


@intrinsic
def _difference(typing: Any, a: Any, b: Any, at: Any) -> Any:
    """Sum of |a - b| over `AT_ONCE` bytes from a position on.

    Written for LLVM, which makes it the processor's own instruction (vpsadbw, uabal): in a loop
    over integers numba widens every byte to eight.
    """
    bytes_type = ir.VectorType(ir.IntType(8), AT_ONCE)
    wide = ir.VectorType(ir.IntType(32), AT_ONCE)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = []
        for kind, argument in zip(signature.args[:2], arguments[:2]):
            array = context.make_array(kind)(context, builder, argument)
            start = builder.gep(array.data, [arguments[2]])
            vector = builder.load(builder.bitcast(start, bytes_type.as_pointer()), align=1)
            values.append(builder.zext(vector, wide))
        absolute = _llvm(builder, f"llvm.abs.v{AT_ONCE}i32", wide, [wide, ir.IntType(1)])
        total = _llvm(builder, f"llvm.vector.reduce.add.v{AT_ONCE}i32", ir.IntType(32), [wide])
        return builder.call(
            total, [builder.call(absolute, [builder.sub(*values), ir.IntType(1)(0)])]
        )

    return numba.types.int32(a, b, numba.types.intp), generate


def _llvm(builder: Any, name: str, result: Any, arguments: Any) -> Any:
    """A function that LLVM knows."""
    kind = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(builder.module, kind, name)


@numba.njit(nogil=True, cache=True)
def _bounds(
    codes: Bytes,
    query_error: Doubles,
    excess: Doubles,
    rows: Bytes,
    row_error: Doubles,
    step: Doubles,
    ends: NDArray[np.int64],
    bounds: Doubles,
) -> None:
    """See `l1_bounds`, for one shard; ends: of the layers' bytes."""
    n = len(rows)
    for group in range((n + 3) // 4):
        for i in range(len(codes)):
            for j in range(4 * group, min(4 * group + 4, n)):
                low = 0.0
                high = 0.0
                start = 0
                for layer in range(len(ends)):
                    total = np.int32(0)
                    for at in range(start, ends[layer], AT_ONCE):
                        total += _difference(codes[i], rows[j], at)  # type: ignore[call-arg]
                    start = ends[layer]
                    middle = excess[i, layer] + step[layer] * total
                    error = query_error[i, layer] + row_error[j, layer] + ROUNDING * middle
                    low += max(0.0, middle - error)
                    high += middle + error
                bounds[0, i, j] = low if high == high else high
                bounds[1, i, j] = high
