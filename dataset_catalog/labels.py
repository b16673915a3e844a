"""What people say of episodes after the fact: a chain of its own, `lake/labels`, that no version of a dataset holds.

Labels are appended, never changed: of one episode and label the row of the newest version counts, and a null value
takes the label back. `task`, `success` and `notes` stand in for what the robot said; every other name is the
researcher's own. A version of the labels is a number like that of a dataset, and is pinned beside it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any
from unicodedata import category

import numpy as np
import pyarrow as pa

from dataset_catalog import publish, versions
from dataset_catalog.errors import CommitLost, QueryError, VersionConflict
from dataset_catalog.schema import LABELS
from dataset_catalog.sql import View, query
from dataset_catalog.storage import Storage
from dataset_catalog.tables import open_table
from dataset_catalog.versions import Manifest

TABLE = "labels"
Value = str | bool | int | float | None

MAP = pa.map_(pa.string(), pa.string())  # an episode's labels by name

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
LONGEST = 4096  # characters of a value
_CHANGED = "labelled"  # the fact of a manifest that says in which version its labels were last changed
_TRIES = 20  # others who label at the same moment
KEYS = pa.schema([LABELS.field(name) for name in ("episode_id", "robot_id", "recording_id", "start_ns")])

_CURRENT = """
SELECT * FROM labels
QUALIFY row_number() OVER (PARTITION BY episode_id, label ORDER BY label_version DESC) = 1 AND value IS NOT NULL
ORDER BY robot_id, start_ns, episode_id, label
"""
_LABELLED = """
WITH own AS (SELECT episode_id, map(list(label ORDER BY label), list(value ORDER BY label)) AS labels
             FROM labels GROUP BY episode_id),
joined AS (SELECT episodes.*, coalesce(own.labels, MAP {}) AS labels FROM episodes LEFT JOIN own USING (episode_id))
SELECT * REPLACE (coalesce(labels['task'], task) AS task, coalesce(labels['notes'], notes) AS notes,
                  coalesce(labels['success'] = 'true', success) AS success)
FROM joined ORDER BY robot_id, start_ns, episode_id
"""


def current(storage: Storage, manifest: Manifest | None) -> pa.Table:
    """The labels that count at a version, one row an episode and label; none where nobody labelled anything."""
    if manifest is None:
        return LABELS.empty_table()
    rows = query(_CURRENT, [View("labels", open_table(storage, versions.LABELS, manifest, TABLE))])
    return rows.cast(LABELS)


def applied(episodes: pa.Table, labels: pa.Table) -> pa.Table:
    """Episodes with what people say of them, by (robot, start, id), and a map `labels` of all their labels."""
    found = query(_LABELLED, [View("episodes", episodes), View("labels", labels)])
    schema = episodes.schema.append(pa.field("labels", MAP))
    return found.cast(schema)


def write(storage: Storage, episodes: pa.Table, values: Mapping[str, Value], *, author: str) -> int:
    """Give these rows of `episodes` these labels; the version of the labels that has them.

    Raises `QueryError` for a label's name or value that cannot be, `CommitLost` where others were always faster, and
    `StorageError` where we may not write.
    """
    texts = {name: _text(name, value) for name, value in values.items()}
    _check_text("author", author)
    if not texts or not len(episodes):
        raise QueryError("a label needs an episode and a value")
    for attempt in range(_TRIES):
        try:
            with storage.reaching():
                return _publish(storage, episodes, texts, author)
        except (CommitLost, VersionConflict):
            time.sleep(0.01 * attempt * np.random.default_rng().random())
    raise CommitLost(f"others labelled at the same moment, {_TRIES} times")


def _publish(storage: Storage, episodes: pa.Table, texts: Mapping[str, str | None], author: str) -> int:
    newest, now_ns = versions.newest(storage, versions.LABELS), time.time_ns()
    base = publish.begin(storage, versions.LABELS, planned_on=newest, schemas={TABLE: LABELS})
    batches = _rows(episodes, texts, author, now_ns, base.next_n).to_batches()
    written = publish.write(storage, versions.LABELS, TABLE, LABELS, batches)
    facts = {_CHANGED: base.next_n}
    return publish.commit(base, {TABLE: written}, positions={}, facts=facts, now_ns=now_ns).n


def version_of(manifest: Manifest | None) -> int:
    """The version in which these labels were last changed, 0 for none: `maintain` publishes the same ones again."""
    return int(manifest.facts[_CHANGED]) if manifest else 0


def _rows(episodes: pa.Table, texts: Mapping[str, str | None], author: str, now_ns: int, version: int) -> pa.Table:
    def one(label: str, value: str | None) -> pa.Table:
        same = {"label": label, "value": value, "author": author, "written_ns": now_ns, "label_version": version}
        columns = [
            pa.repeat(pa.scalar(same[field.name], field.type), len(episodes))
            if field.name in same
            else episodes[field.name].combine_chunks()
            for field in LABELS
        ]
        return pa.Table.from_arrays(columns, schema=LABELS)

    return pa.concat_tables([one(label, value) for label, value in texts.items()])


def _text(name: str, value: Value) -> str | None:
    """As it is stored and compared with in SQL: `true`, `0.5`, `a sentence`."""
    if not _NAME.fullmatch(name):
        raise QueryError(f"a label's name is of a-z, 0-9 and _, got {name!r}")
    if name == "success" and not isinstance(value, bool | None):
        raise QueryError(f"success is True, False or None, got {value!r}")
    if name in ("task", "notes") and not isinstance(value, str | None):
        raise QueryError(f"{name} is a text or None, got {value!r}")
    if isinstance(value, str):
        _check_text(name, value)
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, bool | int | float):
        raise QueryError(f"a label's value is a text, a number, True, False or None, got {value!r}")
    return json.dumps(value)


def _check_text(name: str, text: object) -> None:
    """What is shown to everybody from now on: no escape sequences, and nothing that is no Unicode."""
    fits = isinstance(text, str) and len(text) <= LONGEST
    if not fits or any(category(one) in ("Cc", "Cs") and one not in "\n\t" for one in str(text)):
        raise QueryError(
            f"{name} is a text of at most {LONGEST} characters, none of them for control, got {str(text)[:40]!r}"
        )


def keys_of(table: Any, where: str) -> pa.Table:
    """What a label keeps of its episodes, from a table `episodes`."""
    return table.to_table(columns=KEYS.names, filter=where)
