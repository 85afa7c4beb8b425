"""Model arrays: tensors by name, their layout, their bytes (safetensors), and their one float32 vector.

A layout says which tensors there are, in which order; both sides of every exchange know it beforehand. Bytes from
elsewhere are compared with it before anything is made of them, and the arrays that come out are views of those bytes.
bfloat16, which numpy lacks, is carried as `uint16` holding its bits; nothing else here is `uint16`.

Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field, StringConstraints, ValidationError, field_validator

from fl_runtime.errors import ArraysError
from policies.documents import MAX_DOCUMENT_BYTES, Document, check_strict_json, describe
from policies.encoding import lp, sha256
from policies.errors import MalformedDocumentError

Array: TypeAlias = npt.NDArray[Any]
Vector: TypeAlias = npt.NDArray[np.float32]
ModelArrays: TypeAlias = Mapping[str, Array]
Buffer: TypeAlias = bytes | bytearray | memoryview | mmap.mmap  # a memoryview of bytes

MAX_TENSORS = 8192
MAX_ELEMENTS = 1 << 40  # of all tensors together; keeps every size far from 2^63
LENGTH_SIZE = 8  # bytes of the header's length, little-endian, before the header

Dtype: TypeAlias = Literal["F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL"]
DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})

# Letters, digits and what frameworks join names with. A name is never used as a path; it is kept harmless all the same.
TensorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:/-]*$", max_length=256)]


class TensorSpec(Document):
    """One tensor: its name, element type and shape."""

    name: TensorName
    dtype: Dtype
    shape: tuple[Annotated[int, Field(ge=0, le=MAX_ELEMENTS)], ...] = Field(max_length=16)

    @field_validator("name")
    @classmethod
    def _harmless(cls, name: str) -> str:
        if ".." in name or name == "__metadata__":
            raise ValueError(f"a tensor cannot be named {name!r}")
        return name

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The numpy type of its elements; `uint16` for BF16."""
        return DTYPES[self.dtype]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.size * self.numpy_dtype.itemsize

    @property
    def is_float(self) -> bool:
        """Whether its elements are part of the vector that is summed."""
        return self.dtype in FLOATS

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"


class Layout(Document):
    """Which tensors a model has, in the order their bytes and their elements follow each other.

    Wider elements come first, so that every tensor starts at a multiple of its element's size and its view is aligned.
    """

    tensors: tuple[TensorSpec, ...] = Field(min_length=1, max_length=MAX_TENSORS)

    @field_validator("tensors")
    @classmethod
    def _consistent(cls, tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        if len({spec.name for spec in tensors}) != len(tensors):
            raise ValueError("two tensors have one name")
        widths = [spec.numpy_dtype.itemsize for spec in tensors]
        if widths != sorted(widths, reverse=True):
            raise ValueError("tensors with wider elements must come first")
        if sum(spec.size for spec in tensors) > MAX_ELEMENTS:
            raise ValueError(f"more than {MAX_ELEMENTS} elements")
        return tensors

    @classmethod
    def of(cls, arrays: ModelArrays) -> Self:
        """Return the layout of `arrays`: wider elements first, otherwise in their own order.

        Raises:
            ArraysError: No array, one of an element type that cannot travel, or a name that cannot.
        """
        rows = [
            {"name": name, "dtype": _dtype_name(name, array), "shape": array.shape} for name, array in arrays.items()
        ]
        rows.sort(key=lambda row: -DTYPES[str(row["dtype"])].itemsize)
        return cls._checked(rows)

    @classmethod
    def _checked(cls, rows: list[dict[str, Any]]) -> Self:
        try:
            return cls.model_validate({"tensors": tuple(rows)})
        except ValidationError as error:
            raise ArraysError(f"not a layout: {describe(error)[:500]}") from error

    @property
    def digest(self) -> bytes:
        """SHA-256 of the layout, 32 bytes."""
        return sha256("model-layout", lp(self.encode()))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together, without the header."""
        return sum(spec.nbytes for spec in self.tensors)

    @property
    def vector_length(self) -> int:
        """Number of elements of all float tensors: the length of the vector that is summed."""
        return sum(spec.size for spec in self.tensors if spec.is_float)

    def vector_slices(self) -> dict[str, slice]:
        """Where each float tensor lies in the vector."""
        slices, start = {}, 0
        for spec in self.tensors:
            if spec.is_float:
                slices[spec.name] = slice(start, start + spec.size)
                start += spec.size
        return slices


# --- bytes ------------------------------------------------------------------------------------------------------------


def encoded_size(layout: Layout) -> int:
    """Number of bytes `encode` writes for arrays of this layout."""
    return len(_header(layout)) + layout.nbytes


def pieces(arrays: ModelArrays, layout: Layout) -> Iterator[memoryview]:
    """Yield the encoded arrays piece by piece, header first; contiguous arrays are not copied.

    Raises:
        ArraysError: The arrays are not those of the layout.
    """
    require_layout(arrays, layout)
    yield memoryview(_header(layout))
    for spec in layout.tensors:
        if spec.size:
            yield np.ascontiguousarray(arrays[spec.name]).reshape(-1).view(np.uint8).data


def encode(arrays: ModelArrays, layout: Layout | None = None) -> bytes:
    """Return the arrays as safetensors, in the order of `layout` (their own by default), copied once.

    Raises:
        ArraysError: The arrays are not those of the layout, or cannot travel.
    """
    return b"".join(pieces(arrays, layout or Layout.of(arrays)))


def decode(buffer: Buffer, layout: Layout, *, writable: bool = False) -> dict[str, Array]:
    """Return views of the tensors in `buffer`, which must hold exactly the arrays of `layout`.

    Args:
        buffer: Bytes as `encode` writes them; they must outlive the views.
        layout: What must be there.
        writable: Let the views change the buffer, where the buffer itself can be changed.

    Raises:
        ArraysError: The header is malformed or of another layout, the length is wrong, or a boolean is neither 0 nor 1.
    """
    start, header = _split(buffer, most=2 * len(_header(layout)) + 1024)
    _require_same(_parse_header(header), layout)
    if len(buffer) - start != layout.nbytes:
        raise ArraysError(f"{len(buffer) - start} bytes follow the header, expected {layout.nbytes}")
    arrays: dict[str, Array] = {}
    for spec in layout.tensors:
        view = np.ndarray(spec.shape, spec.numpy_dtype, buffer=buffer, offset=start)
        if spec.dtype == "BOOL" and spec.size and int(view.view(np.uint8).max()) > 1:
            raise ArraysError(f"tensor {spec.name}: a boolean is neither 0 nor 1")
        view.flags.writeable = writable and view.flags.writeable
        arrays[spec.name] = view
        start += spec.nbytes
    return arrays


def read_layout(buffer: Buffer) -> Layout:
    """Return the layout that the header of `buffer` claims. Only for bytes whose origin is trusted already.

    Raises:
        ArraysError: The header is malformed.
    """
    return _parse_header(_split(buffer, most=MAX_DOCUMENT_BYTES)[1])


def _header(layout: Layout) -> bytes:
    entries, start = {}, 0
    for spec in layout.tensors:
        entries[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [start, start + spec.nbytes]}
        start += spec.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_SIZE, "little") + text


def _split(buffer: Buffer, *, most: int) -> tuple[int, bytes]:
    """Return where the tensors start and the header's text, of at most `most` bytes."""
    if len(buffer) < LENGTH_SIZE:
        raise ArraysError(f"{len(buffer)} bytes, expected at least {LENGTH_SIZE}")
    length = int.from_bytes(buffer[:LENGTH_SIZE], "little")
    if length > min(most, len(buffer) - LENGTH_SIZE):
        raise ArraysError(f"a header of {length} bytes in {len(buffer)}, at most {most} are read")
    if length % 8:
        raise ArraysError(f"a header of {length} bytes, expected a multiple of 8")
    return LENGTH_SIZE + length, bytes(buffer[LENGTH_SIZE : LENGTH_SIZE + length])


def _parse_header(text: bytes) -> Layout:
    try:
        entries = check_strict_json(text)
    except MalformedDocumentError as error:
        raise ArraysError(f"header: {error}") from error
    if not isinstance(entries, dict):
        raise ArraysError("header is not an object")
    rows = []
    for name, entry in entries.items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ArraysError(f"header: {name[:80]!r} must have exactly dtype, shape and data_offsets")
        if not isinstance(entry["shape"], list):
            raise ArraysError(f"header: the shape of {name[:80]!r} is not a list")
        rows.append({"name": name, "dtype": entry["dtype"], "shape": tuple(entry["shape"])})
    layout = Layout._checked(rows)  # noqa: SLF001 - the same module
    start = 0
    for spec in layout.tensors:
        # An overlap would let two tensors share bytes; a gap would let bytes travel that nobody looks at.
        found, expected = entries[spec.name]["data_offsets"], [start, start + spec.nbytes]
        if found != expected or any(type(offset) is not int for offset in found):
            raise ArraysError(f"tensor {spec.name} lies at {str(found)[:80]}, expected {expected}")
        start += spec.nbytes
    return layout


# --- agreement --------------------------------------------------------------------------------------------------------


def require_layout(arrays: ModelArrays, layout: Layout) -> None:
    """Raise `ArraysError`, naming the tensor, unless `arrays` has exactly the names, types and shapes of `layout`."""
    _require_names(arrays.keys(), {spec.name for spec in layout.tensors})
    for spec in layout.tensors:
        array = arrays[spec.name]
        if (array.dtype, array.shape) != (spec.numpy_dtype, spec.shape):
            raise ArraysError(f"tensor {spec.name} is {array.dtype}{list(array.shape)}, expected {spec}")


def require_finite(arrays: ModelArrays) -> None:
    """Raise `ArraysError`, naming the tensor, if an array holds NaN or an infinity; `uint16` is taken as bfloat16."""
    for name, array in arrays.items():
        if not _is_finite(array):
            raise ArraysError(f"tensor {name} holds NaN or infinity")


def _is_finite(array: Array) -> bool:
    if array.dtype == np.uint16:
        return not bool(((array & 0x7F80) == 0x7F80).any())
    if array.dtype.kind != "f" or not array.size:
        return True
    return bool(np.isfinite(array.min()) and np.isfinite(array.max()))  # NaN passes through both; no temporary is made


def _require_names(found: Any, expected: set[str]) -> None:  # noqa: ANN401 - any view of keys
    if missing := sorted(expected - set(found)):
        raise ArraysError(f"tensor {missing[0]} is missing ({len(missing)} of {len(expected)} are)")
    if unknown := sorted(set(found) - expected):
        raise ArraysError(f"tensor {unknown[0][:80]} is not part of the model ({len(unknown)} are not)")


def _require_same(found: Layout, layout: Layout) -> None:
    if found == layout:
        return
    _require_names({spec.name for spec in found.tensors}, {spec.name for spec in layout.tensors})
    ours, theirs = next(pair for pair in zip(layout.tensors, found.tensors, strict=True) if pair[0] != pair[1])
    raise ArraysError(f"found tensor {theirs}, expected {ours}")


def _dtype_name(name: str, array: Array) -> str:
    for dtype, numpy_dtype in DTYPES.items():
        if array.dtype == numpy_dtype:
            return dtype
    raise ArraysError(f"tensor {name} has elements of type {array.dtype}, expected one of {', '.join(DTYPES)}")


# --- vector -----------------------------------------------------------------------------------------------------------


def flatten(arrays: ModelArrays, layout: Layout, out: Vector | None = None) -> Vector:
    """Write all float tensors, in the order of the layout, into one float32 vector and return it.

    float16 and bfloat16 widen exactly; float64 is rounded to nearest, or to infinity beyond float32. Integer and
    boolean tensors are left out: they are not summed, the server's value stays.

    Args:
        arrays: Arrays of the layout.
        layout: Their layout.
        out: Vector of `layout.vector_length` elements to write into; made if not given.

    Raises:
        ArraysError: The arrays are not those of the layout, or `out` has another length.
    """
    require_layout(arrays, layout)
    vector = np.empty(layout.vector_length, np.float32) if out is None else out
    _require_vector(vector, layout)
    slices = layout.vector_slices()
    for spec in layout.tensors:
        if spec.is_float:
            array = arrays[spec.name]
            with np.errstate(over="ignore"):
                vector[slices[spec.name]].reshape(spec.shape)[...] = (
                    bf16_to_f32(array) if spec.dtype == "BF16" else array
                )
    return vector


def unflatten(vector: Vector, layout: Layout, kept: ModelArrays) -> dict[str, Array]:
    """Return the arrays of the layout: floats from the vector, everything else from `kept`.

    float32 tensors are views of the vector; narrower ones are rounded to nearest, or to infinity beyond their range.

    Raises:
        ArraysError: The vector has another length, or `kept` lacks a tensor that is not in the vector.
    """
    _require_vector(vector, layout)
    slices = layout.vector_slices()
    arrays: dict[str, Array] = {}
    for spec in layout.tensors:
        if spec.is_float:
            values = vector[slices[spec.name]].reshape(spec.shape)
            arrays[spec.name] = (
                f32_to_bf16(values) if spec.dtype == "BF16" else values.astype(spec.numpy_dtype, copy=False)
            )
        elif spec.name in kept:
            arrays[spec.name] = kept[spec.name]
        else:
            raise ArraysError(f"tensor {spec.name} is not in the vector and was not kept")
    require_layout(arrays, layout)
    return arrays


def _require_vector(vector: Vector, layout: Layout) -> None:
    if vector.dtype != np.float32 or vector.shape != (layout.vector_length,):
        raise ArraysError(f"vector is {vector.dtype}{list(vector.shape)}, expected float32[{layout.vector_length}]")


def _narrow(values: Vector, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):
        return values.astype(dtype, copy=False)


def bf16_to_f32(bits: Array) -> Vector:
    """Widen bfloat16, carried as `uint16`, to float32; exact."""
    return (np.atleast_1d(bits).astype(np.uint32) << 16).view(np.float32).reshape(bits.shape)


def f32_to_bf16(values: Vector) -> npt.NDArray[np.uint16]:
    """Round float32 to bfloat16, nearest and ties to even, carried as `uint16`. NaN stays NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)  # of one dimension at least
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet = (bits >> 16) | 0x40  # a NaN whose payload would be rounded away
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16).reshape(values.shape)
