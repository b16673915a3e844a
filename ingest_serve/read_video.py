"""`GET …/video`: a clip, a playlist of clips, or the way to a raw segment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import IO
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from dataset_catalog import versions
from dataset_catalog.clip import Clip
from dataset_catalog.cut import MAX_CLIP_NS, Cut, Piece, check_length, check_one_piece, check_order
from dataset_catalog.errors import ClipTooLong, NoVideo
from dataset_catalog.hls import playlist
from dataset_catalog.storage import Storage
from dataset_catalog.times import to_text
from dataset_catalog.versions import Manifest
from dataset_catalog.video_rows import find_cut
from ingest_serve.clip_cache import ClipCache
from ingest_serve.read_answers import FileAnswer, is_known
from ingest_serve.read_index import Index, freshness
from ingest_serve.read_query import Query, bad
from ingest_serve.read_settings import ReadSettings
from ingest_serve.read_work import Workers

START_HEADER, END_HEADER = "Fleetfeed-Start-Ns", "Fleetfeed-End-Ns"
MISSING_HEADER, MISSING_COUNT_HEADER = "Fleetfeed-Missing", "Fleetfeed-Missing-Count"
MAX_MISSING = 50  # ranges in the header
PLAYLIST_TYPE = "application/vnd.apple.mpegurl"
_PRIVATE = {"Cache-Control": "private, no-cache", "Vary": "Authorization"}


class ReadVideo:
    """The handlers."""

    def __init__(self, storage: Storage, index: Index, workers: Workers, settings: ReadSettings) -> None:
        self._storage, self._index, self._workers, self._settings = storage, index, workers, settings
        self._cache = ClipCache(settings.clip_folder(), max_bytes=settings.cache_bytes)
        self._made: dict[str, asyncio.Task[None]] = {}

    async def clip(self, request: Request) -> Response:
        """The clip, or with `redirect=1` the way to the raw segment that holds `start`."""
        query = Query.of(request)
        if query.flag("redirect"):
            return await self._to_raw(request, query)
        start_ns, end_ns = query.range_ns()
        check_length(start_ns, end_ns)
        manifest, cut = await self._cut(query, start_ns, end_ns)
        check_one_piece(cut, max_bytes=self._settings.max_clip_bytes)
        clip = Clip(self._storage, cut, cut.start_ns)
        return await self._answer(request, clip, _clip_headers(query.robot, query.stream(), clip, manifest))

    async def playlist(self, request: Request) -> Response:
        """A playlist of entries of a raw segment each, for a range of any length."""
        query = Query.of(request)
        manifest, cut = await self._cut(query, *query.range_ns())
        check_order(cut)
        segments, inits = (_entry_uri(name, query, cut) for name in ("segment.m4s", "init.mp4"))
        text = playlist(cut, segment_uri=segments, init_uri=inits)
        headers = {**_PRIVATE, **_missing_headers(cut), **freshness(manifest)}
        return Response(text, media_type=PLAYLIST_TYPE, headers=headers)

    async def segment(self, request: Request) -> Response:
        """One entry of a playlist, without its initialization section."""
        return await self._entry(request, init=False)

    async def init(self, request: Request) -> Response:
        """The initialization section of a playlist's entry."""
        return await self._entry(request, init=True)

    async def _entry(self, request: Request, *, init: bool) -> Response:
        query = Query.of(request)
        start_ns, end_ns = query.range_ns()
        base_ns = query.time_ns("base")
        if base_ns is None or base_ns > start_ns:
            raise bad("base", "must be the start of the playlist")
        manifest, cut = await self._cut(query, start_ns, end_ns)
        if len(cut.pieces) > 1:
            raise ClipTooLong(f"an entry is of one segment, the range holds {len(cut.pieces)}")
        check_one_piece(cut, max_bytes=self._settings.max_clip_bytes)
        if base_ns > cut.start_ns:
            raise bad("base", "must be the start of the playlist")
        part = "init" if init else "media"
        clip = Clip(self._storage, cut, base_ns)
        headers = {**_PRIVATE, "Content-Type": "video/mp4", **_span_headers(cut), **freshness(manifest)}
        return await self._answer(request, clip, headers, part=part)

    async def _cut(self, query: Query, start_ns: int, end_ns: int) -> tuple[Manifest, Cut]:
        stream, recording = query.stream(), query.recording()

        def look() -> tuple[Manifest, Cut]:
            manifest = self._index.newest(versions.SEGMENTS)
            if manifest is None:
                raise NoVideo("nothing is indexed yet: run the job index_segments")
            cut = find_cut(
                self._storage, manifest, query.robot, stream, start_ns=start_ns, end_ns=end_ns, recording=recording
            )
            return manifest, cut

        return await self._workers.run(look)

    async def _answer(self, request: Request, clip: Clip, headers: dict[str, str], *, part: str = "") -> Response:
        name = f"{clip.digest}{part}"
        etag = f'"{name}"'
        headers = {"ETag": etag, **headers}
        if is_known(request, etag):
            return Response(
                status_code=304, headers={name: headers[name] for name in ("ETag", "Cache-Control", "Vary")}
            )
        return FileAnswer(await self._file(name, clip, part), request, headers)

    async def _file(self, name: str, clip: Clip, part: str) -> IO[bytes]:
        """The kept file; made once, however many ask for it at a time."""
        while True:
            kept = await asyncio.to_thread(self._cache.find, name)
            if kept is not None:
                return kept
            making = self._made.get(name)
            if making is None:
                making = self._made[name] = asyncio.create_task(self._make(name, clip, part))
                making.add_done_callback(lambda done: (self._made.pop(name, None), done.exception()))
            await asyncio.shield(making)  # who leaves does not take it away from the others

    async def _make(self, name: str, clip: Clip, part: str) -> None:
        write = {"": clip.write, "init": clip.write_init, "media": clip.write_media}[part]
        await self._workers.run(lambda: self._cache.make(name, size=clip.most_bytes, make=write).close())

    async def _to_raw(self, request: Request, query: Query) -> Response:
        start_ns = query.time_ns("start")
        if start_ns is None:
            raise bad("start", "is needed")
        end_ns = query.time_ns("end") or start_ns + MAX_CLIP_NS
        if start_ns >= end_ns:
            raise bad("end", "must be later than start")
        manifest, cut = await self._cut(query, start_ns, end_ns)
        first, following = cut.pieces[0], cut.pieces[1:2]
        address = await self._workers.run(lambda: self._presigned(first.key))
        headers = {"Location": address, **_span_headers(cut), **_PRIVATE, **freshness(manifest)}
        headers["Cache-Control"] = "private, no-store"  # the address is good for minutes only
        for piece in following:
            wanted = query.given | {"start": str(piece.start_ns)}
            headers["Link"] = f'<{request.url.path}?{urlencode(wanted)}>; rel="next"'
        return Response(status_code=307, headers=headers)

    def _presigned(self, key: str) -> str:
        with self._storage.reaching():
            filesystem = self._storage.filesystem()
            return str(filesystem.sign(self._storage.path(key), expiration=self._settings.presigned_s))


def _entry_uri(name: str, query: Query, whole: Cut) -> Callable[[Piece], str]:
    """Addresses relative to the playlist's; each asks for just the GOPs of its piece."""

    def of(piece: Piece) -> str:
        wanted = {"stream": query.stream(), "start": piece.start_ns, "end": piece.gop_ns[piece.stop - 1] + 1}
        return f"{name}?{urlencode({**wanted, 'recording': piece.recording, 'base': whole.start_ns})}"

    return of


def _clip_headers(robot: str, stream: str, clip: Clip, manifest: Manifest) -> dict[str, str]:
    lasts_s = (clip.end_ns - clip.start_ns) / 1e9
    name = f"{robot}_{stream}_{to_text(clip.start_ns).replace(':', '')}_{lasts_s:.1f}s.mp4"
    return {
        "Content-Type": "video/mp4",
        "Content-Disposition": f'inline; filename="{name}"',
        **_PRIVATE,
        **_span_headers(clip.cut),
        **_missing_headers(clip.cut),
        **freshness(manifest),
    }


def _span_headers(cut: Cut) -> dict[str, str]:
    return {START_HEADER: str(cut.start_ns), END_HEADER: str(cut.end_ns)}


def _missing_headers(cut: Cut) -> dict[str, str]:
    """The ranges that are not in the answer, the first of them, and how many there are."""
    told = [f"{one.start_ns}-{one.end_ns};{one.state}" for one in cut.missing[:MAX_MISSING]]
    return {MISSING_HEADER: ", ".join(told), MISSING_COUNT_HEADER: str(len(cut.missing))} if told else {}
