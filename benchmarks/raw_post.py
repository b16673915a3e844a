"""The least that an upload can be: POST files over a few connections, as `curl` would; no spool, no ledger.

Run as a process: `python -m benchmarks.raw_post URL CONNECTIONS < requests.jsonl`. Each line is a request that is
signed already: {"target": …, "headers": {…}, "path": …}. Its one line of output says how long the first and the last
answer took since the first request, in s; any answer but 201 ends it with an error.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CREATED = 201

Request = dict[str, Any]


def post_all(requests: list[Request], *, url: str, connections: int) -> tuple[float, float]:
    """Send every request once; seconds from the start to the first and to the last answer."""
    left = deque(requests)
    answers_s: list[float] = []
    errors: list[Exception] = []
    began_s = time.perf_counter()

    def work() -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        while left and not errors:
            try:
                _post(connection, left.popleft())
            except IndexError:  # the other one took the last
                break
            except (OSError, http.client.HTTPException, RuntimeError) as error:
                errors.append(error)
            answers_s.append(time.perf_counter() - began_s)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return min(answers_s), max(answers_s)


def _post(connection: http.client.HTTPConnection, request: Request) -> None:
    connection.request("POST", request["target"], Path(request["path"]).read_bytes(), request["headers"])
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != CREATED:
        raise RuntimeError(f"{request['target']}: {answer.status} {body[:200]!r}")


def main() -> None:
    url, connections = sys.argv[1:]
    requests = [json.loads(line) for line in sys.stdin]
    first_s, last_s = post_all(requests, url=url, connections=int(connections))
    print(json.dumps({"first_s": first_s, "last_s": last_s}))


if __name__ == "__main__":
    main()
