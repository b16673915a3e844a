"""Memory for the pictures of batches, taken again once nobody holds a batch any more.

A batch of 64 pictures of 640×480 is 59 MB. Asked of the system anew, its pages are cleared one by one at the first
touch, which costs as much as copying the pictures into it: a tenth of all that such a batch takes.
"""

from __future__ import annotations

import math
import weakref
from collections import defaultdict, deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

FREE = 3  # blocks of a size that are kept for the next batches: what a loader has in the making, and one


class BatchMemory:
    """Gives arrays. Serves any number of threads."""

    def __init__(self) -> None:
        self._free: defaultdict[int, deque[NDArray[np.uint8]]] = defaultdict(lambda: deque(maxlen=FREE))

    def empty(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An array whose values are anything. Its memory is given out again when it, every view of it and every tensor
        on it are gone."""
        free = self._free[math.prod(shape)]
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(math.prod(shape), np.uint8)
        held = _Held(memory)
        weakref.finalize(held, free.append, memory).atexit = False
        return np.asarray(held).reshape(shape)


class _Held:
    """What arrays on this memory keep alive. Were it an array itself, NumPy would have its views pass it over."""

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        self.__array_interface__: dict[str, Any] = memory.__array_interface__
