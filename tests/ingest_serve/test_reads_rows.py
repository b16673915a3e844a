"""Telemetry in three forms, robots, and a search that goes page by page while the index grows."""

from __future__ import annotations

import csv
import io
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dataset_catalog.storage import Storage
from ingest_serve.read_settings import ReadSettings
from ingest_serve.row_forms import ARROW, CSV, NDJSON, chosen_form
from tests.dataset_catalog.filmed import T0, Filmed, gray_packets
from tests.ingest_serve.conftest import Server, refusal, serve
from tests.ingest_serve.reading import Researcher, S, film, lazy_reader, publish_telemetry, wide_rows

HUGE = 2**63 - 3
OWN = {"robot_id": pa.string(), "recording_id": pa.string(), "t_ns": pa.int64()}
ROWS: list[dict[str, Any]] = [
    {
        "position": [0.1, 1e300, -0.0],
        "count": HUGE,
        "percent": 90.25,
        "name": 'a "b", c\r\nd',
        "raw": b"\0\xff",
        "ok": True,
    },
    {"position": [], "count": -(2**63), "percent": math.nan, "name": "", "raw": b"", "ok": False},
    {"position": None, "count": None, "percent": math.inf, "name": None, "raw": None, "ok": None},
    {"position": [math.nan, -math.inf, 2.0], "count": 0, "percent": -math.inf, "name": "ü\n", "raw": b"x", "ok": True},
]
SCHEMA = pa.schema(
    {
        **OWN,
        "position": pa.list_(pa.float64()),
        "count": pa.int64(),
        "percent": pa.float64(),
        "name": pa.string(),
        "raw": pa.binary(),
        "ok": pa.bool_(),
    }
)


@pytest.fixture
def server(storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("FLEETFEED_READS_CACHE_DIR", str(tmp_path / "clips"))
    monkeypatch.setenv("FLEETFEED_READS_INDEX_CACHE_S", "0")
    with serve(storage) as running:
        yield running


@pytest.fixture
def ada(server: Server) -> Researcher:
    return Researcher(server)


def as_table(rows: list[dict[str, Any]], *, robot: str = "h1") -> pa.Table:
    own = [{"robot_id": robot, "recording_id": "r", "t_ns": T0 + n} for n in range(len(rows))]
    return pa.Table.from_pylist([a | b for a, b in zip(own, rows, strict=True)], schema=SCHEMA)


@pytest.fixture
def odd(storage: Storage) -> pa.Table:
    """One topic whose values are as odd as values get; another robot's rows between."""
    table = as_table(ROWS)
    publish_telemetry(storage, {"arm.left": pa.concat_tables([as_table(ROWS, robot="h2"), table])})
    return table


def rows_of(ada: Researcher, form: str, **query: Any) -> Any:
    answer = ada.get("robots/h1/telemetry", headers={"Accept": form}, **({"topic": "/arm/left"} | query))
    assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (200, form), answer.text
    assert answer.headers["Vary"] == "Accept, Authorization"
    return answer.content


def same(one: Any, other: Any) -> bool:
    """Equal, where NaN equals NaN and -0.0 is not 0.0."""
    return repr(one) == repr(other)


def test_arrow_gives_every_value_and_type_as_it_is_stored(ada: Researcher, odd: pa.Table) -> None:
    got = pa.ipc.open_stream(rows_of(ada, ARROW)).read_all()
    assert got.schema.equals(odd.schema)
    assert same(got.to_pylist(), odd.to_pylist())


def test_json_lines_keep_64_bits_and_say_null_for_what_json_cannot_hold(ada: Researcher, odd: pa.Table) -> None:
    rows = [json.loads(line, parse_constant=pytest.fail) for line in rows_of(ada, NDJSON).splitlines()]
    assert [row["t_ns"] for row in rows] == odd["t_ns"].to_pylist()
    assert [row["count"] for row in rows] == [HUGE, -(2**63), None, 0]
    assert same(rows[0]["position"], [0.1, 1e300, -0.0])
    assert rows[3]["position"] == [None, None, 2.0]
    assert [row["percent"] for row in rows] == [90.25, None, None, None]
    assert [row["name"] for row in rows] == ['a "b", c\r\nd', "", None, "ü\n"]
    assert [row["raw"] for row in rows] == ["AP8=", "", None, "eA=="]
    assert [row["ok"] for row in rows] == [True, False, None, True]


def test_csv_keeps_numbers_text_and_lists(ada: Researcher, odd: pa.Table) -> None:
    text = rows_of(ada, CSV).decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert list(rows[0]) == odd.schema.names
    assert [row["count"] for row in rows] == [str(HUGE), str(-(2**63)), "", "0"]
    assert [row["percent"] for row in rows] == ["90.25", "NaN", "Infinity", "-Infinity"]
    assert [row["name"] for row in rows] == ['a "b", c\r\nd', "", "", "ü\n"]
    assert same(json.loads(rows[0]["position"]), [0.1, 1e300, -0.0])
    assert [row["position"] for row in rows[1:]] == ["[]", "", "[null,null,2.0]"]
    assert [row["raw"] for row in rows] == ["AP8=", "", "", "eA=="]
    assert [row["ok"] for row in rows] == ["true", "false", "", "true"]
    lines = text.split("\r\n")  # the first row has a line break in it
    assert lines[3] == f'"h1","r",{T0 + 1},"[]",{-(2**63)},NaN,"",,false'
    assert lines[4] == f'"h1","r",{T0 + 2},,,Infinity,,,'  # an empty text is quoted, null is nothing


def test_only_the_rows_of_the_robot_and_the_range_come(ada: Researcher, odd: pa.Table) -> None:
    got = pa.ipc.open_stream(rows_of(ada, ARROW, start=T0 + 1, end=T0 + 3)).read_all()
    assert got["t_ns"].to_pylist() == [T0 + 1, T0 + 2]
    assert pa.ipc.open_stream(rows_of(ada, ARROW, start=T0 + 50)).read_all().num_rows == 0
    assert rows_of(ada, NDJSON, end=T0) == b""


def test_many_rows_come_in_batches_that_are_small(ada: Researcher, storage: Storage) -> None:
    n = 30_000
    own = {
        "robot_id": ["h1"] * n,
        "t_ns": T0 + np.arange(n),
        "q": pa.FixedSizeListArray.from_arrays(np.arange(8.0 * n), 8),
    }
    publish_telemetry(storage, {"arm.left": pa.table(own)})
    reader = pa.ipc.open_stream(rows_of(ada, ARROW))
    batches = list(reader)
    assert max(batch.num_rows for batch in batches) <= 1024
    assert sum(batch.num_rows for batch in batches) == n
    assert batches[-1]["q"][-1].as_py() == [8.0 * n - 8 + k for k in range(8)]


def test_a_reader_that_takes_nothing_holds_up_nobody_and_one_that_goes_leaves_its_turn(
    ada: Researcher, storage: Storage
) -> None:
    publish_telemetry(storage, {"wide": wide_rows("h1", rows=8000, width=250)})
    for _ in range(ReadSettings().at_once + 1):
        with lazy_reader(ada, "/v1/robots/h1/telemetry?topic=/wide"):
            last = ada.get("robots/h1/telemetry", topic="/wide", start=T0 + 7998)
    assert [json.loads(line)["t_ns"] - T0 for line in last.content.splitlines()] == [7998, 7999]


def test_a_client_that_goes_ends_what_is_made_for_it(
    ada: Researcher, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_telemetry(storage, {"wide": wide_rows("h1", rows=1, width=1)})
    closed = threading.Event()

    def endless(*_: Any) -> Iterator[bytes]:
        try:
            while True:
                yield bytes(1 << 20)
        finally:
            closed.set()

    monkeypatch.setattr("ingest_serve.read_telemetry.encoded", endless)
    with lazy_reader(ada, "/v1/robots/h1/telemetry?topic=/wide"):
        assert not closed.wait(0.1)
    assert closed.wait(20)
    closed.clear()
    assert ada.get("robots/h1/telemetry", topic="/wide", method="HEAD").content == b""
    assert closed.wait(20)


def test_what_is_not_there_or_not_acceptable_is_said(ada: Researcher, storage: Storage) -> None:
    nothing = ada.get("robots/h1/telemetry", topic="/arm/left")
    assert refusal(nothing) == (404, "unknown_topic")
    assert "load_telemetry" in nothing.json()["detail"]
    publish_telemetry(storage, {"arm.left": as_table(ROWS), "observation~2Estate": as_table(ROWS)})
    unknown = ada.get("robots/h1/telemetry", topic="arm/left")
    assert refusal(unknown) == (404, "unknown_topic")
    assert unknown.json()["topics"] == ["/arm/left", "/observation.state"]
    assert refusal(ada.get("robots/h1/telemetry")) == (400, "bad_parameter")
    assert refusal(ada.get("robots/h1/telemetry", topic="/x", start=5, end=5)) == (400, "bad_parameter")
    wrong = ada.get("robots/h1/telemetry", topic="/arm/left", headers={"Accept": "text/html, text/csv;q=0"})
    assert refusal(wrong) == (406, "not_acceptable")
    quoted = ada.get("robots/h1/telemetry", topic="/arm/left", start="2026-01-01T00:00:00'--")
    assert refusal(quoted) == (400, "bad_parameter")


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", NDJSON),
        ("*/*", NDJSON),
        ("text/*", CSV),
        (f"{CSV};q=0.5, {ARROW}", ARROW),
        (f"{ARROW};q=0, */*", NDJSON),
        ("application/*;q=0.1, text/csv;q=0.2", CSV),
        ("Text/CSV; charset=utf-8", CSV),
        ("text/html", None),
        (f"{CSV};q=nonsense", None),
    ],
)
def test_accept_chooses_the_form(accept: str, form: str | None) -> None:
    assert chosen_form(accept) == form


def test_robots_and_videos_of_an_empty_lake_are_empty_lists(ada: Researcher) -> None:
    robots, videos = ada.get("robots"), ada.get("videos")
    assert (robots.json(), videos.json()) == ({"robots": []}, {"videos": [], "next": None})
    assert robots.headers["Fleetfeed-Index-Version"] == videos.headers["Fleetfeed-Index-Version"] == "0"


def test_robots_are_told_with_the_index_s_version(ada: Researcher, storage: Storage) -> None:
    film(storage)
    answer = ada.get("robots")
    (robot,) = answer.json()["robots"]
    assert (robot["robot_id"], robot["segments"], robot["quarantined"], robot["gaps"]) == ("h1", 3, 0, 0)
    assert T0 <= robot["start_ns"] < T0 + 3_000_000
    assert (answer.headers["Fleetfeed-Index-Version"], answer.headers["Fleetfeed-Index-Published-Ns"]) == (
        "1",
        str(T0 + 1),
    )
    assert ada.get("robots", method="HEAD").content == b""


def fill(filmed: Filmed, robot: str, count: int, *, first: int = 0) -> None:
    """Many segments with one body's row."""
    row = dict(filmed.film(gray_packets(T0, 10), seq=first)) | {"robot_id": robot}
    filmed.rows[-1:] = [
        row | {"seq": first + n, "start_ns": T0 + n * S, "end_ns": T0 + (n + 1) * S, "luma_mean": float(n)}
        for n in range(count)
    ]


def test_pages_are_complete_and_without_doubles_while_the_index_grows(ada: Researcher, storage: Storage) -> None:
    filmed = Filmed(storage)
    fill(filmed, "h1", 25)
    filmed.publish()
    seen, cursor = [], {}
    for number in range(20):
        answer = ada.get("videos", limit=7, where="state = 'ok'", **cursor)
        assert answer.headers["Fleetfeed-Index-Version"] == "1"
        seen += [(row["robot_id"], row["seq"]) for row in answer.json()["videos"]]
        if answer.json()["next"] is None:
            break
        cursor = {"cursor": answer.json()["next"]}
        fill(filmed, ("a0", "z9")[number % 2], 5, first=5 * number)  # before and behind where the reader is
        filmed.publish()
    assert seen == [("h1", seq) for seq in range(25)]
    fresh = ada.get("videos", limit=1000).json()["videos"]
    assert len(fresh) == len({(row["robot_id"], row["seq"]) for row in fresh}) == 40
    assert "gops" not in fresh[0]


def test_a_search_restricts_by_robot_stream_time_and_sql(ada: Researcher, storage: Storage) -> None:
    filmed = Filmed(storage)
    fill(filmed, "h1", 10)
    fill(filmed, "h2", 10)
    filmed.publish()

    def found(**query: Any) -> list[int]:
        return [row["seq"] for row in ada.get("videos", **query).json()["videos"]]

    assert found(robot="h1", start=T0 + 2 * S, end=T0 + 4 * S) == [2, 3]
    assert found(robot="h2", where="luma_mean > 6 -- bright") == [7, 8, 9]
    assert found(stream="tail") == []
    assert len(found()) == 20


REFUSED = [
    "nosuch = 1",
    "true) --",
    "true) UNION ALL (SELECT * FROM segments WHERE (true",
    "1; DROP TABLE segments",
    "seq = ?",
    "seq IN (SELECT seq FROM read_csv('/etc/passwd'))",
    "(SELECT count(*) FROM range(1000000000000) a) > 0",
    "len(list_sort(range(900000000))) > 0",
    "length(repeat('x', 1000000000)) > 1",
    "seq::INTEGER[1000000000] IS NULL",
    "list_filter(topics, lambda t: true) IS NULL",
    "count(*) OVER () > 1",
    "COLUMNS('.*') = 1",
    "(" * 3000 + "1" + ")" * 1000,
    "not " * 900 + "true",
    "x" * 5000,
]


def test_sql_that_cannot_run_or_takes_too_much_is_a_problem(ada: Researcher, storage: Storage) -> None:
    film(storage)
    for where in REFUSED:
        status, code = refusal(ada.get("videos", where=where))
        assert (status, code) == ((400, "bad_parameter") if len(where) > 4096 else (400, "bad_query")), where
    assert len(ada.get("videos").json()["videos"]) == 3


def test_a_cursor_is_good_for_its_own_search_alone(ada: Researcher, storage: Storage) -> None:
    filmed = Filmed(storage)
    fill(filmed, "h1", 5)
    filmed.publish()
    cursor = ada.get("videos", limit=2).json()["next"]
    assert ada.get("videos", limit=2, cursor=cursor).json()["videos"][0]["seq"] == 2
    for wrong in (
        {"cursor": cursor, "robot": "h1"},
        {"cursor": cursor[:-4]},
        {"cursor": "ü"},
        {"cursor": "AAAA"},
        {"limit": 0},
    ):
        assert refusal(ada.get("videos", **wrong)) == (400, "bad_parameter"), wrong
