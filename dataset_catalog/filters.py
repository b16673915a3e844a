"""The steps that satisfy an SQL predicate, or lie in a range of time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataset_catalog.errors import QueryError
from dataset_catalog.predicate import bracketed
from dataset_catalog.selection import Selection
from dataset_catalog.sql import View, query
from dataset_catalog.tables import contains

_EPISODES = "SELECT episode_id, 0::BIGINT AS first, steps AS stop FROM episodes WHERE {where}"
_STEPS = """
WITH described AS (SELECT steps.*, task, success, notes, labels, start_ns, end_ns
                   FROM steps JOIN episodes USING (episode_id)),
kept AS (SELECT episode_id, step, step - row_number() OVER (PARTITION BY episode_id ORDER BY step) AS run
         FROM described WHERE {where})
SELECT episode_id, min(step) AS first, max(step) + 1 AS stop FROM kept
GROUP BY episode_id, run ORDER BY episode_id, first
"""


def matching(where: str, *, episodes: pa.Table, steps: Any) -> Selection:
    """Whole episodes where the columns of `episodes` are enough for the predicate, else single steps.

    `steps` is a LanceDataset or a table; it is read only if it must be. Raises `QueryError`.
    """
    where, described = bracketed(where), View("episodes", episodes)
    try:
        rows = query(_EPISODES.format(where=where), [described])
    except QueryError:
        rows = query(_STEPS.format(where=where), [described, View("steps", steps)])
    return _selection(rows)


def between(start_ns: int, end_ns: int, *, episodes: pa.Table, steps: Any) -> Selection:
    """The steps in `[start_ns, end_ns)`. Only of episodes that lie across an end of it are the steps looked at."""
    begin, end = episodes["start_ns"].to_numpy(), episodes["end_ns"].to_numpy()
    inside = (begin >= start_ns) & (end <= end_ns)
    across = ~inside & (begin < end_ns) & (end > start_ns)
    whole, cut = (episodes.filter(pa.array(which)) for which in (inside, across))
    kept = f"t_ns >= {start_ns} AND t_ns < {end_ns} AND {contains('episode_id', cut['episode_id'].to_pylist())}"
    rows = steps.to_table(columns=["episode_id", "step"], filter=kept) if len(cut) else None
    runs = [pa.table({"episode_id": whole["episode_id"], "first": _zeros(len(whole)), "stop": whole["steps"]})]
    if rows is not None:
        found = rows.group_by("episode_id").aggregate([("step", "min"), ("step", "max")])
        stop = pc.add(found["step_max"], 1)
        runs.append(pa.table({"episode_id": found["episode_id"], "first": found["step_min"], "stop": stop}))
    return _selection(pa.concat_tables(runs))


def _zeros(count: int) -> Any:
    return pa.array(np.zeros(count, np.int64))


def _selection(rows: pa.Table) -> Selection:
    ids = rows["episode_id"].combine_chunks().cast(pa.string())
    return Selection.from_columns(ids, rows["first"].to_numpy(), rows["stop"].to_numpy())
