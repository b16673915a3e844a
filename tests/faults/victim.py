"""A robot's program that is there to be killed: it records as fast as it can and says what was flushed.

    python -m tests.faults.victim FOLDER

Every line on its standard output is a JSON object that was true when it was written. The settings come from the
environment. `tests/faults/killing.py` starts it, kills it, and reads what it had said.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from edge.recorder import Recorder

CAMERA = "head"
MESSAGES_A_ROUND = 40
SIDE = 16


def say(what: str, **facts: Any) -> None:
    print(json.dumps({"what": what, **facts}), flush=True)


def main(folder: Path) -> None:
    say("starting")
    began_s = time.perf_counter()
    recorder = Recorder(folder, wait_for_room=True)
    say("started", recording=recorder.recording_id, start_s=time.perf_counter() - began_s)
    for done in count(1):
        record_round(recorder, done)
        recorder.flush()
        say("flushed", rounds=done)


def record_round(recorder: Recorder, number: int) -> None:
    """Messages numbered from 0, one picture and one line of text, with times that are the numbers."""
    first = (number - 1) * MESSAGES_A_ROUND
    for n in range(first, first + MESSAGES_A_ROUND):
        recorder.log("/n", n, {"n": n})
    recorder.image(CAMERA, number, np.full((SIDE, SIDE, 3), number % 256, np.uint8))
    recorder.text("info", f"round {number}", t_ns=number)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
