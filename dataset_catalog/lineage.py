"""From a step back to the raw objects: which key and SHA-256 each of its values and frames came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from dataset_catalog import versions
from dataset_catalog.contents import Contents
from dataset_catalog.errors import NotFound
from dataset_catalog.tables import contains, open_table, read

LINEAGE = pa.schema([("name", pa.string()), ("t_ns", pa.int64()), ("key", pa.string()), ("sha256", pa.string())])

Row = dict[str, Any]


def trace(contents: Contents, place: tuple[str, int]) -> pa.Table:
    """One row a column or camera of the step and object that it was made from, as `LINEAGE`; nothing for a null.

    A frame comes from the object its GOP was cut from. A value comes from the object of the episode that covers its
    capture time in the index, of a stream that is no camera; where the index does not know the episode's objects, as
    in an imported lake, all of them that no camera was cut from are named. Two streams may cover one time, and a value
    between two readings (`linear`, `slerp`) is traced to the earlier.
    """
    step = _step(contents, place)
    rows = [*_of_cameras(contents, step), *_of_columns(contents, step)]
    return pa.Table.from_pylist(rows, schema=LINEAGE)


def _step(contents: Contents, place: tuple[str, int]) -> Row:
    episode, number = place
    where = f"{contains('episode_id', [episode])} AND step = {int(number)}"
    found: list[Row] = read(contents.table("steps"), filter=where).to_pylist()
    if not found:
        raise NotFound(f"{contents.name} v{contents.manifest.n} has no step {number} of episode {episode!r}")
    return found[0]


def _of_cameras(contents: Contents, step: Row) -> Iterator[Row]:
    for camera in contents.camera_names:
        if step[f"{camera}_gop"] is None:
            continue
        t_ns = step["t_ns"] - step[f"{camera}_age_ns"]
        for row in _gops(contents, step["episode_id"], camera, step[f"{camera}_gop"]):
            if row["frame_t_ns"][step[f"{camera}_k"] : step[f"{camera}_k"] + 1] == [t_ns]:
                yield {"name": camera, "t_ns": t_ns, "key": row["source_key"], "sha256": row["source_sha256"]}
                break


def _gops(contents: Contents, episode: str, camera: str, gop: int) -> list[Row]:
    """This GOP in each of the camera's renditions: the step's numbers fit one of them."""
    where = f"{contains('episode_id', [episode])} AND {contains('camera', [camera])} AND gop = {gop}"
    columns = ["frame_t_ns", "source_key", "source_sha256"]
    rows: list[Row] = read(contents.table("gops"), columns=columns, filter=where).to_pylist()
    return rows


def _of_columns(contents: Contents, step: Row) -> Iterator[Row]:
    """Every numeric column that the step has."""
    times = {
        name: step["t_ns"] - step[f"{name}_age_ns"] for name in contents.columns if step[f"{name}_age_ns"] is not None
    }
    objects = _objects(contents, step["episode_id"])
    for name, t_ns in times.items():
        for one in objects:
            if one["start_ns"] is None or one["start_ns"] <= t_ns < one["end_ns"]:
                yield {"name": name, "t_ns": t_ns, "key": one["key"], "sha256": one["sha256"]}


def _objects(contents: Contents, episode: str) -> list[Row]:
    """The episode's raw objects that are no video, with their range of time; without one where no index knows them."""
    sources = contents.long(pa.array([episode]))["sources"][0].as_py()
    known = _indexed(contents, [one["key"] for one in sources])
    filmed = _filmed(contents, episode)
    nothing = {"start_ns": None, "end_ns": None, "kind": ""}
    rows = [one | known.get(one["key"], nothing) for one in sources]
    return [row for row in rows if row["kind"] != "video" and row["key"] not in filmed]


def _indexed(contents: Contents, keys: list[str]) -> dict[str, Row]:
    """What `segments` says of these objects, by key."""
    manifest = versions.newest(contents.storage, versions.SEGMENTS)
    if manifest is None:
        return {}
    table = open_table(contents.storage, versions.SEGMENTS, manifest, "segments")
    rows = table.to_table(columns=["key", "kind", "start_ns", "end_ns"], filter=contains("key", keys)).to_pylist()
    return {row.pop("key"): row for row in rows}


def _filmed(contents: Contents, episode: str) -> set[str]:
    """The objects that the episode's GOPs were cut from."""
    if "gops" not in contents.manifest.tables:
        return set()
    rows = read(contents.table("gops"), columns=["source_key"], filter=contains("episode_id", [episode]))
    return set(rows["source_key"].to_pylist())
