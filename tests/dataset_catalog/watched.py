"""Run a training script and write down what its loader gave to its loop: `watched.py FOLDER SCRIPT WORDS…`.

One file a process, one line a batch, the ids of its samples, each line when the loop has the batch.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataset_catalog.loader import Loader


def watch(folder: Path) -> None:
    """Have every loader of this process write down what it gives."""
    iterate = Loader.__iter__

    def watched(self: Loader) -> Iterator[Any]:
        with (folder / f"rank-{os.environ.get('RANK', '0')}").open("a", buffering=1) as file:
            for batch in iterate(self):
                file.write(json.dumps(batch["sample_id"]) + "\n")
                yield batch

    Loader.__iter__ = watched  # type: ignore[method-assign]


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
