"""Actions told from where the robot is: each element minus that of another column at the step itself. Pure.

A chunk of relative actions starts near 0 wherever the robot stands, which is what pi0 and others learn from. What has
no meaningful difference, such as a gripper's opening, stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset_catalog.contents import Column
from dataset_catalog.errors import WindowError


@dataclass(frozen=True, slots=True)
class RelativeTo:
    """What is asked for: `relative={"action": RelativeTo("state", absolute=["gripper"])}`.

    column    whose value at the step is subtracted, element by element
    absolute  elements of the action that stay as they are: names, or numbers from 0
    """

    column: str
    absolute: Sequence[str | int] = ()


@dataclass(frozen=True, slots=True)
class Relative:
    """`to` is the column subtracted; `mask` says for each element whether it is relative."""

    to: str
    mask: tuple[bool, ...]

    def subtract(self, values: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float32]:
        """`values` (B, K, D) minus `reference` (B, R) where the mask says so."""
        difference: NDArray[np.float32] = values - self._where(reference)[:, None]
        return difference

    def undo(self, values: Any, reference: Any) -> Any:
        """The inverse, of NumPy arrays or of tensors: `values` (…, K, D), `reference` (…, R), as it was recorded."""
        return values + self._where(reference)[..., None, :]

    def _where(self, reference: Any) -> Any:
        """(…, D): the reference's elements where the mask says so, else 0."""
        chosen = [index for index, relative in enumerate(self.mask) if relative]
        shape = (*reference.shape[:-1], len(self.mask))
        is_array = isinstance(reference, np.ndarray)
        out = np.zeros(shape, reference.dtype) if is_array else reference.new_zeros(shape)
        out[..., chosen] = reference[..., chosen]
        return out


def plan_relative(name: str, asked: str | RelativeTo, columns: Mapping[str, Column]) -> Relative:
    """What `relative={name: asked}` means for this dataset. Raises `WindowError` where it means nothing."""
    wanted = RelativeTo(asked) if isinstance(asked, str) else asked
    if wanted.column not in columns:
        raise WindowError(f"{name} cannot be relative to {wanted.column!r}; columns: {sorted(columns)}")
    own, other = columns[name], columns[wanted.column]
    absolute = {_element(name, own, element) for element in wanted.absolute}
    mask = tuple(index not in absolute for index in range(own.size))
    if not any(mask):
        raise WindowError(f"every element of {name} is to stay absolute: then it is not relative")
    if any(mask[other.size :]):
        raise WindowError(
            f"{name} has {own.size} elements, {wanted.column} {other.size}: name those that stay absolute"
        )
    if "slerp" in (own.policy, other.policy):
        raise WindowError(f"{name} to {wanted.column}: the difference of quaternions is no rotation")
    return Relative(wanted.column, mask)


def _element(name: str, column: Column, element: str | int) -> int:
    names = column.names or ()
    if isinstance(element, str) and element in names:
        return names.index(element)
    if isinstance(element, int) and 0 <= element < column.size:
        return element
    raise WindowError(f"{name} has no element {element!r}: it has {column.size}, named {list(names)}")
