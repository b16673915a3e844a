"""The process that runs the application on Ray Serve: `python -m fleetfeed.serving MODULE:FUNCTION PORT`.

Its standard input says when: a line once Ray is up, the end of file when Serve is to end (also when the keeper died).
It answers `ready` on its standard output; what Ray or the application print goes to standard error.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TextIO

import ray
from ray import serve

from fleetfeed.ports import LOOPBACK

READY = "ready"


def main() -> None:
    import_path, port = sys.argv[1:]
    answers = _take_standard_output()
    application = build(import_path)
    if not sys.stdin.readline():
        return
    ray.init(log_to_driver=False)  # the address is in RAY_ADDRESS
    serve.start(http_options=serve.HTTPOptions(host=LOOPBACK, port=int(port)))
    serve.run(application)
    print(READY, file=answers, flush=True)
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


def build(import_path: str) -> serve.Application:
    """Import and call `module:function`."""
    module, function = import_path.split(":")
    application = getattr(importlib.import_module(module), function)()
    if not isinstance(application, serve.Application):
        raise TypeError(f"{import_path} must return a serve.Application, got {type(application).__name__}")
    return application


def _take_standard_output() -> TextIO:
    """Standard output for us alone: whatever else is printed goes to the log."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


if __name__ == "__main__":
    main()
