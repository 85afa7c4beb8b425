"""FLModel and the conversion between a script's tensors and arrays."""

import subprocess
import sys

import numpy as np
import pytest

from fl_runtime.arrays import Layout
from fl_runtime.client import FLModel, MetaKey, ParamsType
from fl_runtime.client.tensors import from_script, to_script
from fl_runtime.errors import ArraysError

ARRAYS = {"w": np.ones((2, 3), np.float32), "h": np.full(2, 0x3F80, np.uint16), "n": np.array(7)}
LAYOUT = Layout.of(ARRAYS)


def test_params_without_a_type_are_full():
    assert FLModel(params={"w": 1}).params_type is ParamsType.FULL
    assert FLModel(params={"w": 1}, params_type="DIFF").params_type is ParamsType.DIFF
    assert FLModel(metrics={"a": 1}).params_type is None


def test_type_without_params_is_refused():
    with pytest.raises(ValueError, match="no params"):
        FLModel(params_type=ParamsType.FULL)


def test_unknown_params_type_is_refused():
    with pytest.raises(ValueError):
        FLModel(params_type="HALF", params={"w": 1})


@pytest.mark.parametrize("field", ["params", "metrics", "meta"])
def test_what_is_not_a_dict_is_refused(field):
    with pytest.raises(TypeError, match=f"{field} is a list, expected a dict"):
        FLModel(**{field: [1]})


def test_repr_shows_counts_and_never_values():
    text = repr(FLModel(params={"secret": 1234.5}, metrics={"loss": 6789.5}, meta={"who": "patient"}, current_round=3))
    assert "params=1" in text
    assert "current_round=3" in text
    assert not any(word in text for word in ("secret", "1234", "6789", "patient", "who", "loss"))


def test_meta_is_a_copy():
    meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 3}
    FLModel(meta=meta).meta["more"] = 1
    assert meta == {"NUM_STEPS_CURRENT_ROUND": 3}


def test_importing_the_client_api_does_not_import_torch():
    program = "import sys, fl_runtime.client, fl_runtime.site.trainer; sys.exit('torch' in sys.modules or 'grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_torch_tensors_come_and_go_without_changing():
    torch = pytest.importorskip("torch")
    tensors = to_script({name: array.copy() for name, array in ARRAYS.items()}, LAYOUT)
    assert (tensors["w"].dtype, tensors["h"].dtype, tensors["n"].dtype) == (torch.float32, torch.bfloat16, torch.int64)
    assert tensors["h"].tolist() == [1.0, 1.0]
    tensors["w"].requires_grad_()
    back = from_script(tensors, LAYOUT)
    assert {name: array.tolist() for name, array in back.items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }


def test_float64_answers_a_float32_model():
    assert from_script({**ARRAYS, "w": np.ones((2, 3))}, LAYOUT)["w"].dtype == np.float32


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"w": np.ones((3, 2), np.float32)}, r"params\['w'\] has shape \[3, 2\], expected \[2, 3\]"),
        ({"w": np.full((2, 3), np.nan, np.float32)}, "tensor w holds NaN"),
        ({"w": np.full((2, 3), 1e300)}, "tensor w holds NaN or infinity"),
        ({"h": np.full(2, 0x7FC0, np.uint16)}, "tensor h holds NaN"),
        ({"h": np.ones(2, np.float32)}, r"params\['h'\] has elements of type float32, expected BF16"),
        ({"n": np.array(7.5)}, r"params\['n'\] has elements of type float64, expected I64"),
        ({"extra": np.ones(1)}, "params have 'extra'"),
    ],
)
def test_params_that_are_not_of_the_received_model_are_named(change, said):
    with pytest.raises(ArraysError, match=said):
        from_script({**ARRAYS, **change}, LAYOUT)


def test_missing_tensor_is_named():
    with pytest.raises(ArraysError, match="params lack 'w'"):
        from_script({"h": ARRAYS["h"], "n": ARRAYS["n"]}, LAYOUT)
