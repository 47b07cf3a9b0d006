"""A byte a value: from both sides bounds of L1 distances, at a quarter of the bytes.

Every layer of a shard has a scale: x' = low + step * code, where code is 0 .. 255 and low and
low + 255 * step enclose all values x. A row keeps its codes and, for every layer, the error
sum |x - x'|. A query q is clipped to the scale, to c. As all x are within, sum |q - x| is
sum |q - c| + sum |c - x|; the second sum differs from sum |c' - x'| by both errors at most.
"""

from collections.abc import Sequence
from threading import Lock
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
_kernels = Lock()  # numba's simplest threading layer dies of two callers at once
SCALE = 24  # bytes of low, step and error, float64


def padded(widths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
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
    _scales(records, len(widths))[:] = np.stack(
        np.broadcast_arrays(low, step, error + excess + slack), axis=-1
    )
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
    ends = np.append(0, np.cumsum(padded(widths)))
    bounds = np.empty((2, len(queries), firsts[-1]))
    compared = np.asarray(widths, np.int64)[layers]
    # Addresses of the shards' first codes: all shards are compared by one call, since every call
    # makes the threads wait for each other.
    rows = np.array([records.ctypes.data for records in shards])
    codes = rows + ends[layers.start]
    scales = rows + ends[-1] + SCALE * layers.start
    stride = record_size(widths)
    with _kernels:
        _bounds(queries, compared, padded(compared), codes, scales, stride, firsts, bounds)
    return bounds


def _scales(records: Bytes, n_layers: int) -> Doubles:
    """(low, step, error) of every row and layer, (n, L, 3); a view."""
    numbers = records[:, records.shape[1] - SCALE * n_layers :].view(np.float64)
    return numbers.reshape(len(records), n_layers, 3)


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
def _difference(typing: Any, values: Any, address: Any, at: Any) -> Any:
    """Sum of |values - other| over `AT_ONCE` bytes from a position on; `address`: of the others.

    Written for LLVM, which makes it the processor's own instruction (vpsadbw, uabal): in a loop
    over integers numba widens every byte to eight.
    """
    bytes_type = ir.VectorType(ir.IntType(8), AT_ONCE)
    wide = ir.VectorType(ir.IntType(32), AT_ONCE)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, other, position = arguments
        here = context.make_array(signature.args[0])(context, builder, array).data
        there = builder.inttoptr(other, ir.IntType(8).as_pointer())
        vectors = []
        for start in (here, there):
            place = builder.bitcast(builder.gep(start, [position]), bytes_type.as_pointer())
            vectors.append(builder.zext(builder.load(place, align=1), wide))
        absolute = _llvm(builder, f"llvm.abs.v{AT_ONCE}i32", wide, [wide, ir.IntType(1)])
        total = _llvm(builder, f"llvm.vector.reduce.add.v{AT_ONCE}i32", ir.IntType(32), [wide])
        differences = builder.call(absolute, [builder.sub(*vectors), ir.IntType(1)(0)])
        return builder.call(total, [differences])

    return numba.types.int32(values, numba.types.int64, numba.types.int64), generate


@intrinsic
def _number(typing: Any, address: Any) -> Any:
    """The float64 at an address."""

    def generate(context: Any, builder: Any, signature: Any, addresses: Any) -> Any:
        pointer = builder.inttoptr(addresses[0], ir.DoubleType().as_pointer())
        return builder.load(pointer, align=8)

    return numba.types.float64(numba.types.int64), generate


def _llvm(builder: Any, name: str, result: Any, arguments: Any) -> Any:
    """A function that LLVM knows."""
    kind = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(builder.module, kind, name)


@numba.njit(parallel=True, nogil=True, cache=True)
def _bounds(
    queries: Floats,
    widths: NDArray[np.int64],
    places: NDArray[np.int64],
    codes: NDArray[np.int64],
    scales: NDArray[np.int64],
    stride: int,
    firsts: NDArray[np.int64],
    bounds: Doubles,
) -> None:
    """See `l1_bounds`.

    widths, places: dimensions and bytes of the layers, (L,). codes, scales: addresses of each
    shard's first code and first (low, step, error); its rows are `stride` bytes apart. firsts: the
    number of each shard's first row, and n.
    """
    n_queries = len(queries)
    n_layers = len(widths)
    size = places.sum()
    for shard in numba.prange(len(codes)):
        first = firsts[shard]
        low = np.empty(n_layers)
        step = np.empty(n_layers)
        for layer in range(n_layers):
            low[layer] = _number(scales[shard] + SCALE * layer)  # type: ignore[call-arg]
            step[layer] = _number(scales[shard] + SCALE * layer + 8)
        of_queries = np.zeros((n_queries, size), np.uint8)
        error = np.zeros((n_queries, n_layers))
        excess = np.zeros((n_queries, n_layers))
        _quantise(queries, widths, places, low, step, of_queries, error, excess)
        for group in range(first, firsts[shard + 1], 4):
            for i in range(n_queries):
                query = of_queries[i]
                for j in range(group, min(group + 4, firsts[shard + 1])):
                    row = codes[shard] + (j - first) * stride
                    errors = scales[shard] + (j - first) * stride + 16
                    least = 0.0
                    most = 0.0
                    start = 0
                    for layer in range(n_layers):
                        total = np.int32(0)
                        for at in range(start, start + places[layer], AT_ONCE):
                            total += _difference(query, row, at)  # type: ignore[call-arg]
                        start += places[layer]
                        middle = excess[i, layer] + step[layer] * total
                        lost: float = _number(errors + SCALE * layer)  # type: ignore[call-arg]
                        slack = error[i, layer] + lost + ROUNDING * middle
                        least += max(0.0, middle - slack)
                        most += middle + slack
                    bounds[0, i, j] = least if most == most else most
                    bounds[1, i, j] = most
