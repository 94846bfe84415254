"""What the values of this package have in common: array types, and checks that name the field."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

UInt8Array: TypeAlias = NDArray[np.uint8]


Float32Array: TypeAlias = NDArray[np.float32]


Float64Array: TypeAlias = NDArray[np.float64]


Int32Array: TypeAlias = NDArray[np.int32]


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """Raise `ValueError` that names the field, what it must be, and what it was."""
    if not condition:
        raise ValueError(f"{name} must be {expected}; got {got!r}")


def require_array(array: NDArray[Any], name: str, dtype: type[np.generic], shape: tuple[int | None, ...]) -> None:
    """Raise `ValueError` unless `array` has `dtype` and `shape`, in which None stands for any length."""
    fits = array.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    expected = f"{np.dtype(dtype).name} of shape {tuple('any' if n is None else n for n in shape)}"
    require(array.dtype == dtype and fits, name, expected, f"{array.dtype.name} {array.shape}")
