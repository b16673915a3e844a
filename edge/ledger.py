"""The sums of what was delivered long ago: a recording's ledger of many lines becomes one line of `folded.jsonl`.

The line is synced before the ledger is removed; after a crash in between, the line counts and the ledger is removed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from edge import checked
from edge.disk import read_lines
from edge.spool import FOLDED, Spool, Spooled, named_by, stem_of
from edge.wire import check_recording


def fold(spool: Spool, *, older_than_s: float, now_s: float | None = None) -> list[str]:
    """Fold the ledgers of recordings of which nothing is left and nothing has come for so long."""
    limit_s = (time.time() if now_s is None else now_s) - older_than_s
    done = dict(folded(spool))
    folded_now = []
    for path in sorted((spool.folder / "ledger").glob("*.jsonl")):
        recording = path.stem
        is_ours = named_by(check_recording, recording)
        if not is_ours or path.stat().st_mtime > limit_s or _is_kept(spool, recording):
            continue
        if recording not in done:
            line = checked.dumps({"recording": recording, "streams": _sums(spool, recording)})
            spool.add_to_ledger(FOLDED, line)
        spool.disk.unlink(path)
        folded_now.append(recording)
    return folded_now


def folded(spool: Spool) -> Iterator[tuple[str, dict[str, dict[str, int]]]]:
    """Recording, and by stream the messages `uploaded` and `dropped`, of what was folded."""
    for line in read_lines(spool.folder / "ledger" / f"{FOLDED}.jsonl"):
        fields = checked.loads(line)
        if fields is not None:
            yield fields["recording"], fields["streams"]


def gone(gap: Spooled, stored: Mapping[str, Spooled]) -> int:
    """Messages that a gap record tells of, without those of segments (`stored`, by stem) that had arrived after all."""
    stems = (stem_of(gap.recording, gap.stream, seq) for seq in range(gap.seq, gap.last_seq + 1))
    return max(0, gap.messages - sum(stored[stem].messages for stem in stems if stem in stored))


def _is_kept(spool: Spool, recording: str) -> bool:
    """Whether the spool still holds something of a recording besides its ledger."""
    places = (spool.folder / place / recording for place in ("open", "sealed", "quarantine"))
    return any(path.exists() for path in places)


def _sums(spool: Spool, recording: str) -> dict[str, dict[str, int]]:
    sums: dict[str, dict[str, int]] = {}
    items = spool.acknowledged(recording)
    stored = {item.stem: item for item in items if not item.is_gap}
    for item in items:
        counts = sums.setdefault(item.stream, {"uploaded": 0, "dropped": 0})
        if not item.is_gap:
            counts["uploaded"] += item.messages
        elif item.cause != "quarantined":
            counts["dropped"] += gone(item, stored)
    return sums
