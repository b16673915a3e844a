"""The two numbers an element is normalized by, and where they come from. Pure.

    mean_std  mean 0 and standard deviation 1
    min_max   the least value is -1, the greatest 1
    q01_q99   the 1 % quantile is -1, the 99 % quantile 1; what lies beyond stays beyond, nothing is clipped

An element that does not change is only moved, to 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.errors import WindowError

Method = Literal["mean_std", "min_max", "q01_q99"]
METHODS: tuple[Method, ...] = get_args(Method)
STILL = 1e-6  # a deviation, or half a range, below which an element does not change


class Measured(Protocol):
    """What an element's two numbers come from, (d,) each; `Statistics` are one, `Values` another."""

    @property
    def count(self) -> NDArray[np.int64]: ...
    @property
    def mean(self) -> NDArray[np.float64]: ...
    @property
    def std(self) -> NDArray[np.float64]: ...
    @property
    def min(self) -> NDArray[np.float64]: ...
    @property
    def max(self) -> NDArray[np.float64]: ...
    def quantile(self, q: float, /) -> NDArray[np.float64]: ...


@dataclass(frozen=True, eq=False, slots=True)
class Values:
    """All the values themselves, (n, d); those that are not finite are left out, each element by itself."""

    values: NDArray[np.float32]

    @property
    def count(self) -> NDArray[np.int64]:
        finite: NDArray[np.int64] = np.isfinite(self.values).sum(axis=0)
        return finite

    @property
    def mean(self) -> NDArray[np.float64]:
        return self._of_each(np.mean)

    @property
    def std(self) -> NDArray[np.float64]:
        return self._of_each(np.std)

    @property
    def min(self) -> NDArray[np.float64]:
        return self._of_each(np.min)

    @property
    def max(self) -> NDArray[np.float64]:
        return self._of_each(np.max)

    def quantile(self, q: float, /) -> NDArray[np.float64]:
        return self._of_each(lambda element: np.quantile(element, q))

    def _of_each(self, number: Callable[[NDArray[np.float64]], Any]) -> NDArray[np.float64]:
        return np.array([number(element[np.isfinite(element)].astype(np.float64)) for element in self.values.T])


@dataclass(frozen=True, slots=True)
class Scaling:
    """`(x − middle) / width`, each element by its own; as tuples, so that it can be compared and saved."""

    middle: tuple[float, ...]
    width: tuple[float, ...]

    @classmethod
    def of(cls, measured: Measured, method: str) -> Scaling:
        """Raises `WindowError` for a method that there is not, and for an element that has no finite value."""
        if method not in METHODS:
            raise WindowError(f"a method to normalize by is one of {', '.join(METHODS)}, got {method!r}")
        if not measured.count.all():
            raise WindowError(f"no finite values of the elements {np.flatnonzero(measured.count == 0).tolist()}")
        if method == "mean_std":
            middle, width = measured.mean, measured.std
        else:
            least, greatest = _range(measured, method)
            middle, width = (least + greatest) / 2, (greatest - least) / 2
        return cls(_rounded(middle), _rounded(np.where(width > STILL, width, 1.0)))

    def apply(self, values: Any) -> Any:
        """Normalized (…, D): an array as float32, counted in float64; a tensor in its own type."""
        if isinstance(values, np.ndarray):
            return ((values - np.array(self.middle)) / np.array(self.width)).astype(np.float32)
        return (values - _like(values, self.middle)) / _like(values, self.width)

    def undo(self, values: Any) -> Any:
        """The inverse, of a NumPy array or of a tensor, whose type and device it keeps."""
        return values * _like(values, self.width) + _like(values, self.middle)


def _rounded(numbers: NDArray[np.float64]) -> tuple[float, ...]:
    """To nine digits, a hundredth of what float32 tells apart: the last bits of a sum may depend on the processor, and
    a saved position, which is of these very numbers, must not."""
    return tuple(float(f"{number:.9g}") for number in numbers.tolist())


def _like(values: Any, numbers: Sequence[float]) -> Any:
    """The numbers as an array or a tensor, as `values` is; without PyTorch where only arrays come."""
    return np.array(numbers, values.dtype) if isinstance(values, np.ndarray) else values.new_tensor(numbers)


def _range(measured: Measured, method: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if method == "min_max":
        return measured.min, measured.max
    return measured.quantile(0.01), measured.quantile(0.99)
