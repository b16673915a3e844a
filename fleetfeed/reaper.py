"""The process that ends a stack: `python -m fleetfeed.reaper STACK_ID [PATH …]`.

Its standard input is a pipe whose other end only the keeper holds. When the keeper is done with its own clean ending,
or was killed in the middle of anything, the pipe closes; the reaper then ends every marked process and removes the
paths that would be left over outside of the run folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fleetfeed.processes import end_marked


def main() -> None:
    stack_id, *left_over = sys.argv[1:]
    sys.stdin.buffer.read()
    ended = end_marked(stack_id)
    for path in left_over:
        Path(path).unlink(missing_ok=True)
    sys.exit(not ended)


if __name__ == "__main__":
    main()
