"""Between a script's tensors and the runtime's arrays.

torch is never imported here. A script that uses it has imported it before it receives, and then receives torch tensors; any
other script receives numpy arrays.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from fl_runtime.arrays import Array, Layout, ModelArrays, TensorSpec, require_finite
from fl_runtime.errors import ArraysError


def to_script(arrays: ModelArrays, layout: Layout) -> dict[str, Any]:
    """Return the arrays as the script uses tensors: torch's if the script has imported torch, numpy's if not.

    Both share memory with `arrays`, which must be writable.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return dict(arrays)
    tensors: dict[str, Any] = {}
    for spec in layout.tensors:
        array = arrays[spec.name]
        if spec.dtype == "BF16":
            tensors[spec.name] = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        else:
            tensors[spec.name] = torch.from_numpy(array)
    return tensors


def from_script(params: Mapping[str, Any], layout: Layout) -> dict[str, Array]:
    """Return a script's params as arrays of `layout`, in its order.

    A number may change its width (a script that computes in float64 may answer a float32 model), never its kind.

    Raises:
        ArraysError: A tensor is missing, unknown, of another shape or kind, or holds NaN or infinity; names it.
    """
    expected = {spec.name: spec for spec in layout.tensors}
    if missing := [name for name in expected if name not in params]:
        raise ArraysError(
            f"params lack {missing[0]!r} ({len(missing)} of {len(expected)} tensors of the received model)"
        )
    if unknown := [name for name in params if name not in expected]:
        raise ArraysError(f"params have {str(unknown[0])[:80]!r}, which the received model does not have")
    arrays = {name: _to_array(params[name], spec) for name, spec in expected.items()}
    require_finite({name: array for name, array in arrays.items() if expected[name].is_float})
    return arrays


def _to_array(value: Any, spec: TensorSpec) -> Array:  # noqa: ANN401 - whatever the script holds
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # numpy has no such type: its bits are taken
            value = value.view(sys.modules["torch"].int16).numpy().view(np.uint16)
        else:
            value = value.numpy()
    array = np.asarray(value)
    if array.shape != spec.shape:
        raise ArraysError(f"params[{spec.name!r}] has shape {list(array.shape)}, expected {list(spec.shape)}")
    if array.dtype == spec.numpy_dtype:
        return array
    if spec.dtype == "BF16" or not np.can_cast(array.dtype, spec.numpy_dtype, casting="same_kind"):
        raise ArraysError(f"params[{spec.name!r}] has elements of type {array.dtype}, expected {spec.dtype}")
    with np.errstate(over="ignore"):  # beyond the narrower range is infinity, which is refused
        return array.astype(spec.numpy_dtype)
