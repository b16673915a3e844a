"""Why worker processes could not start, found before they are started: their own message would be a torn pipe.

forkserver and spawn import the main script anew in each worker, under another name, and unpickle what they are sent
there. A notebook cannot be imported, and a script without a guard would start workers in its workers.
"""

from __future__ import annotations

import ast
import io
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

from dataset_catalog.errors import WorkerError

_WITHOUT = "or use workers=0, which decodes in threads of this process"


def check_can_travel(thing: Any) -> None:
    """Raises `WorkerError` where `thing` does not pickle, or holds what a notebook's cells define."""
    try:
        _Checking(io.BytesIO()).dump(thing)
    except WorkerError:
        raise
    except Exception as error:  # pickling runs into anything at all
        raise WorkerError(
            f"this cannot be sent to worker processes ({type(error).__name__}: {error}): "
            f"define it by name at the top of a module, {_WITHOUT}"
        ) from error


def check_guard() -> None:
    """Raises `WorkerError` where the main script starts workers outside of `if __name__ == "__main__":`."""
    main = sys.modules["__main__"]
    path, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if not path or (spec is not None and spec.name.endswith("__main__")):  # a notebook, a package: not imported anew
        return
    for line in _lines_of(main.__dict__):
        if not _is_guarded(Path(path), line):
            raise WorkerError(
                f"{path}:{line} starts worker processes, and each of them imports this script, which would start "
                f'workers again: put what it does under `if __name__ == "__main__":`, {_WITHOUT}'
            )


class _Checking(pickle.Pickler):
    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, type | FunctionType) and thing.__module__ == "__main__" and not _main_can_be_imported():
            raise WorkerError(
                f"{thing.__qualname__} is defined in a notebook or at a prompt, where worker processes cannot import "
                f"it from: put it into a module, {_WITHOUT}"
            )
        return NotImplemented


def _main_can_be_imported() -> bool:
    main = sys.modules["__main__"]
    return getattr(main, "__file__", None) is not None or getattr(main, "__spec__", None) is not None


def _lines_of(scope: dict[str, Any]) -> Iterator[int]:
    """Where a module's own top level stands, if it is what called us."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is scope and frame.f_code.co_name == "<module>":
            yield frame.f_lineno
        frame = frame.f_back


def _is_guarded(path: Path, line: int) -> bool:
    try:
        tree = ast.parse(path.read_text())
    except (OSError, SyntaxError, ValueError):
        return True  # nobody knows; a worker says it where it is not so
    around = [node for node in tree.body if node.lineno <= line <= (node.end_lineno or node.lineno)]
    return any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in around)
