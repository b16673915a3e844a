"""The steps that satisfy an SQL predicate."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from dataset_catalog.errors import QueryError
from dataset_catalog.selection import Run, Selection
from dataset_catalog.sql import View, query

_EPISODES = "SELECT episode_id, 0 AS first, steps AS stop FROM episodes WHERE ({where})"
_STEPS = """
WITH described AS (SELECT steps.*, task, success, notes, start_ns, end_ns FROM steps JOIN episodes USING (episode_id)),
kept AS (SELECT episode_id, step, step - row_number() OVER (PARTITION BY episode_id ORDER BY step) AS run
         FROM described WHERE ({where}))
SELECT episode_id, min(step) AS first, max(step) + 1 AS stop FROM kept
GROUP BY episode_id, run ORDER BY episode_id, first
"""


def matching(where: str, *, episodes: pa.Table, steps: Any) -> Selection:
    """Whole episodes where the columns of `episodes` are enough for the predicate, else single steps.

    `steps` is a LanceDataset or a table; it is read only if it must be. Raises `QueryError`.
    """
    described = View("episodes", episodes)
    try:
        rows = query(_EPISODES.format(where=where), [described])
    except QueryError:
        rows = query(_STEPS.format(where=where), [described, View("steps", steps)])
    return Selection.of(Run(row["episode_id"], row["first"], row["stop"]) for row in rows.to_pylist())
