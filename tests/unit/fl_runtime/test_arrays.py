"""Model arrays: what is written is read back, and what was not agreed is refused before it becomes an array."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fl_runtime import arrays as ma
from fl_runtime.arrays import Layout, TensorSpec, decode, encode, flatten, unflatten
from fl_runtime.errors import ArraysError
from policies.errors import MalformedDocumentError

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_:/-]{0,20}", fullmatch=True).filter(lambda name: name != "__metadata__")
TENSORS = st.sampled_from(list(ma.DTYPES.values())).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
MODELS = st.dictionaries(NAMES, TENSORS, min_size=1, max_size=6)


def model() -> dict[str, np.ndarray]:
    return {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.ones(3, np.float32),
        "n": np.array([7], np.int64),
    }


def message(entries: object, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def two(first: object = (0, 8), second: object = (8, 16)) -> dict[str, object]:
    return {"a": entry(offsets=first), "b": entry(offsets=second)}


LAYOUT = Layout.of({"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)})


@settings(max_examples=60, deadline=None)
@given(MODELS)
def test_encoded_arrays_decode_to_the_same_bytes(arrays):
    layout = Layout.of(arrays)
    raw = encode(arrays)
    decoded = decode(raw, layout)
    assert len(raw) == ma.encoded_size(layout)
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in decoded.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()
    }
    assert all(view.flags.aligned and not view.flags.writeable for view in decoded.values())
    assert ma.read_layout(raw) == layout == Layout.parse(layout.encode())


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=64), st.binary(max_size=64).map(message)))
def test_any_bytes_decode_or_are_refused_as_arrays(raw):
    with pytest.raises(ArraysError):
        decode(raw, LAYOUT)
    with pytest.raises(ArraysError):
        ma.read_layout(raw)


def test_the_safetensors_library_reads_what_is_written_and_is_read():
    from safetensors.numpy import load, save

    arrays = model()
    assert {name: a.tolist() for name, a in load(encode(arrays)).items()} == {n: a.tolist() for n, a in arrays.items()}
    raw = save(arrays)
    assert decode(raw, ma.read_layout(raw))["w"].tolist() == arrays["w"].tolist()


def test_views_share_the_buffer_and_are_writable_only_when_asked():
    raw = bytearray(encode(model()))
    layout = Layout.of(model())
    decode(raw, layout, writable=True)["b"][:] = 5
    assert decode(raw, layout)["b"].tolist() == [5, 5, 5]
    with pytest.raises(ValueError):
        decode(raw, layout)["b"][:] = 1


def test_arrays_that_are_not_contiguous_are_encoded_by_value():
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert decode(encode({"w": array}), Layout.of({"w": array}))["w"].tolist() == array.tolist()


def test_good_bytes_of_two_tensors_are_accepted():
    assert decode(message(two(), bytes(16)), LAYOUT).keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "at least 8"),
        ((1 << 63).to_bytes(8, "little"), "at most"),
        (message(two(), bytes(16))[:20], "at most"),
        (message(two(), bytes(15)), "15 bytes follow the header, expected 16"),
        (message(two(), bytes(17)), "17 bytes follow the header, expected 16"),
        (message(two(second=(4, 12)), bytes(16)), "lies at"),
        (message(two(second=(12, 20)), bytes(16)), "lies at"),
        (message(two(first=(8, 16), second=(0, 8)), bytes(16)), "lies at"),
        (message(two(first=(False, 8)), bytes(16)), "lies at"),
        (message(two(first=8), bytes(16)), "lies at"),
        (message({"a": entry()}, bytes(8)), "tensor b is missing"),
        (message({**two(), "c": entry(offsets=(16, 24))}, bytes(24)), "tensor c is not part"),
        (message({"a": entry("I64", (1,)), "b": entry(offsets=(8, 16))}, bytes(16)), "expected a F32"),
        (message({"a": entry(shape=(2, 1)), "b": entry(offsets=(8, 16))}, bytes(16)), r"expected a F32\[2\]"),
        (message({"b": entry(), "a": entry(offsets=(8, 16))}, bytes(16)), "found tensor b"),
        (message({"a": {**entry(), "x": 1}, "b": entry()}, bytes(16)), "exactly"),
        (message({"__metadata__": {"format": "pt"}, **two()}, bytes(16)), "exactly"),
        (message(b'{"a":1,"a":1}'), "twice"),
        (message([1]), "not an object"),
        (message({"a": entry("F8")}), "not a layout"),
        (message({"a": entry(["F32"])}), "not a layout"),
        (message({"a": entry(shape=[-1])}), "not a layout"),
        (message({"a": entry(shape=[1.0])}), "number 1.0"),
        (message({"a": entry(shape=[1 << 41])}), "not a layout"),
        (message({"a": entry(shape=[1 << 30, 1 << 30])}), "not a layout"),
        (message({"a": entry(shape=2)}), "not a list"),
        (message({"../etc/passwd": entry()}), "not a layout"),
        (message({"a/../b": entry()}), "not a layout"),
        (message({"a\n": entry()}), "not a layout"),
        (message({"n": entry("U8", (8,)), "w": entry(offsets=(8, 16))}, bytes(16)), "wider elements"),
        (message({f"t{number}": entry() for number in range(200_000)}), "at most"),
        ((1).to_bytes(8, "little") + b"{" + bytes(16), "multiple of 8"),
    ],
)
def test_hostile_header_is_refused(raw, said):
    with pytest.raises(ArraysError, match=said):
        decode(raw, LAYOUT)


def test_boolean_that_is_neither_0_nor_1_is_refused():
    arrays = {"mask": np.array([True, False])}
    raw = bytearray(encode(arrays))
    raw[-1] = 2
    with pytest.raises(ArraysError, match="boolean"):
        decode(raw, Layout.of(arrays))


@pytest.mark.parametrize("dtype", [np.uint32, np.complex64, ">f4", "U1", object])
def test_element_type_that_cannot_travel_is_refused(dtype):
    with pytest.raises(ArraysError, match="tensor x has elements of type"):
        Layout.of({"x": np.zeros(1, dtype)})


def test_layout_of_nothing_or_with_a_name_twice_is_refused():
    with pytest.raises(ArraysError):
        Layout.of({})
    spec = TensorSpec(name="a", dtype="F32", shape=())
    with pytest.raises(ValueError, match="one name"):
        Layout(tensors=(spec, spec))


def test_layout_document_with_a_field_too_many_is_malformed():
    with pytest.raises(MalformedDocumentError):
        Layout.parse(b'{"tensors":[{"name":"a","dtype":"F32","shape":[],"x":1}]}')


def test_digest_differs_with_order_name_type_and_shape():
    a, b = np.zeros(2, np.float32), np.zeros(3, np.float32)
    models = [{"a": a, "b": b}, {"b": b, "a": a}, {"a": a, "c": b}, {"a": a, "b": a}, {"a": a, "b": b.view(np.int32)}]
    assert len({Layout.of(each).digest for each in models}) == len(models)


def test_arrays_of_another_layout_are_not_encoded():
    layout = Layout.of(model())
    for change in ({"w": np.zeros((3, 2), np.float32)}, {"w": np.zeros((2, 3))}, {"more": np.zeros(1)}):
        with pytest.raises(ArraysError, match="tensor"):
            encode({**model(), **change}, layout)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_array_that_is_not_finite_is_named(dtype, bad):
    with pytest.raises(ArraysError, match="tensor w holds"):
        ma.require_finite({"ok": np.zeros(2), "w": np.array([0, bad, 1], dtype)})


def test_bfloat16_that_is_not_finite_is_named():
    bits = ma.f32_to_bf16(np.array([1, np.nan], np.float32))
    with pytest.raises(ArraysError, match="tensor w holds"):
        ma.require_finite({"w": bits})
    ma.require_finite({"w": bits[:1], "empty": np.zeros(0), "n": np.array([1])})


@settings(max_examples=60, deadline=None)
@given(MODELS)
def test_float_tensors_survive_the_vector_and_others_are_kept(arrays):
    layout = Layout.of(arrays)
    vector = flatten(arrays, layout, np.full(layout.vector_length, 9, np.float32))
    back = unflatten(vector, layout, arrays)
    assert back.keys() == arrays.keys()
    for spec in layout.tensors:
        before, after = arrays[spec.name], back[spec.name]
        if spec.dtype == "F64":
            with np.errstate(over="ignore"):
                before = before.astype(np.float32).astype(np.float64)
        if spec.dtype == "BF16":
            before, after = ma.bf16_to_f32(before), ma.bf16_to_f32(after)
        np.testing.assert_array_equal(after, before)


def test_integers_are_not_in_the_vector():
    layout = Layout.of(model())
    assert layout.vector_length == 9
    assert layout.vector_slices() == {"w": slice(0, 6), "b": slice(6, 9)}
    with pytest.raises(ArraysError, match="tensor n is not in the vector"):
        unflatten(np.zeros(9, np.float32), layout, {})


@pytest.mark.parametrize("vector", [np.zeros(8, np.float32), np.zeros(9), np.zeros((9, 1), np.float32)])
def test_vector_of_another_length_or_type_is_refused(vector):
    layout = Layout.of(model())
    with pytest.raises(ArraysError, match="vector is"):
        flatten(model(), layout, vector)
    with pytest.raises(ArraysError, match="vector is"):
        unflatten(vector, layout, model())


def test_float32_rounds_to_the_nearest_even_bfloat16():
    values = np.array([1.0, 1.00390625, 1.01171875, -2.5, np.inf, 3.4e38], np.float32)  # the 2nd and 3rd are ties
    assert ma.bf16_to_f32(ma.f32_to_bf16(values)).tolist() == [1.0, 1.0, 1.015625, -2.5, np.inf, np.inf]
    snan = np.array([0x7F800001], np.uint32).view(np.float32)
    assert np.isnan(ma.bf16_to_f32(ma.f32_to_bf16(snan))).all()
