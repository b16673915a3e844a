"""A page of a dataset to look at: frames with robot, task and time, and under each what the joints were doing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dataset_catalog.errors import WindowError
from dataset_catalog.times import to_text
from dataset_catalog.whole_file import write_whole

if TYPE_CHECKING:
    from dataset_catalog.dataset import Dataset

Image = NDArray[np.uint8]  # (height, width, 3) RGB
Color = tuple[int, int, int]

MOST = 400  # places on a page
WIDTH = 320  # of a frame on the page, pixels
HEADER, PANEL, MARGIN = 40, 46, 14
LABEL, BARS = 58, 120  # pixels of a panel's width; the rest is the curve
CURVE_S = 2.0  # seconds before and after the moment that the curve shows
CURVE_POINTS = 61

PAPER, CARD, INK, FAINT, NOW = (238, 239, 242), (255, 255, 255), (32, 36, 44), (136, 142, 152), (226, 84, 60)
PALETTE: list[Color] = [(38, 110, 180), (230, 140, 40), (60, 150, 90), (170, 70, 150), (120, 130, 30), (40, 160, 170)]


def write_contact_sheet(
    dataset: Dataset, path: Path, *, camera: str, columns: Sequence[str], rows: int, cols: int
) -> Path:
    """A PNG of `rows` × `cols` moments, evenly spread over the selection; fewer if it has fewer steps.

    Each column gets a panel: its values as bars, on one scale for the page, and as curves from two seconds before to
    two seconds after (gray line: now), each element on its own scale. Values out of tolerance are left out.

    Raises `WindowError` for an empty selection or a name that the dataset does not have, `CatalogError` where the file
    cannot be written.
    """
    if not len(dataset) or rows < 1 or cols < 1 or rows * cols > MOST:
        raise WindowError(
            f"a contact sheet needs a step and 1 to {MOST} places, got {len(dataset)} steps, {rows}x{cols}"
        )
    columns = [columns] if isinstance(columns, str) else columns
    offsets = np.linspace(-CURVE_S, CURVE_S, CURVE_POINTS).tolist()
    windows = dataset.windows({camera: [0.0], **dict.fromkeys(columns, offsets)})
    count = min(rows * cols, len(windows))
    batch = windows.batch(np.linspace(0, len(windows) - 1, count).round().astype(np.int64))
    starts = {row["episode_id"]: row for row in dataset.episodes().to_pylist()}
    tiles = list(_tiles(batch, starts, camera, columns))
    page = _page([*tiles, *[np.full_like(tiles[0], PAPER)] * (-count % cols)], cols)
    return write_whole(path, cv2.imencode(".png", page[..., ::-1])[1].tobytes())


def _tiles(batch: dict[str, Any], episodes: dict[str, Any], camera: str, columns: Sequence[str]) -> Iterator[Image]:
    curves = {name: np.where(batch[f"{name}_mask"][..., None], batch[name], np.nan) for name in columns}
    reach = {name: float(np.nanmax(np.abs(curve), initial=1e-6)) for name, curve in curves.items()}
    motion = {name: _spread(curve) for name, curve in curves.items()}
    for i, name in enumerate(batch["episode_id"]):
        picture = batch[camera][i, 0].transpose(1, 2, 0)
        height = round(WIDTH * picture.shape[0] / picture.shape[1])
        frame = cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA)
        header = _header(episodes[name], int(batch["t_ns"][i]))
        panels = [_panel(column, curve[i] / reach[column], motion[column][i]) for column, curve in curves.items()]
        yield np.concatenate([header, frame, *panels])


def _header(episode: dict[str, Any], t_ns: int) -> Image:
    image = np.full((HEADER, WIDTH, 3), CARD, np.uint8)
    mark = {True: "  ok", False: "  failed", None: ""}[episode["success"]]
    _write(image, f"{episode['robot_id']}  {episode['task'] or 'no task'}{mark}", (8, 17), INK, 0.46)
    into = f"{(t_ns - episode['start_ns']) / 1e9:+.2f} s"
    _write(image, f"{to_text(t_ns)[:-1].replace('T', '  ')}   {into}", (8, 33), FAINT, 0.38)
    return image


def _spread(curves: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, points, d) with each element's own range over the page spread to −1 … 1; what stays still is a line at 0."""
    low, high = (pick(curves, axis=(0, 1), initial=edge) for pick, edge in ((np.nanmin, 1e9), (np.nanmax, -1e9)))
    spread: NDArray[np.float32] = (curves - (low + high) / 2) / np.maximum((high - low) / 2, 1e-6)
    return spread


def _panel(name: str, curve: NDArray[np.float32], motion: NDArray[np.float32]) -> Image:
    """Both (points, d) in −1 … 1, NaN where nothing is; the middle is now."""
    image = np.full((PANEL, WIDTH, 3), CARD, np.uint8)
    _write(image, name[:9], (8, PANEL // 2 + 4), FAINT, 0.36)
    _bars(image[5:-5, LABEL : LABEL + BARS], curve[len(curve) // 2])
    _curves(image[5:-5, LABEL + BARS + 12 : -10], motion)
    return image


def _bars(image: Image, values: NDArray[np.float32]) -> None:
    middle, slot = image.shape[0] // 2, image.shape[1] / len(values)
    for d, value in enumerate(values):
        if np.isfinite(value):
            left, right = round(d * slot), max(round((d + 1) * slot) - 2, round(d * slot))
            end = middle - round(float(value) * middle)
            cv2.rectangle(image, (left, min(middle, end)), (right, max(middle, end)), PALETTE[d % len(PALETTE)], -1)
    cv2.line(image, (0, middle), (image.shape[1] - 1, middle), FAINT, 1)


def _curves(image: Image, curve: NDArray[np.float32]) -> None:
    height, width = image.shape[:2]
    cv2.line(image, (width // 2, 0), (width // 2, height - 1), (205, 208, 214), 1)
    x = np.linspace(0, width - 1, len(curve))
    for d in range(curve.shape[1]):
        color, y = PALETTE[d % len(PALETTE)], (height - 1) / 2 * (1 - curve[:, d])
        known = np.isfinite(y)
        for piece in np.split(np.arange(len(y)), np.flatnonzero(np.diff(known)) + 1):
            if known[piece[0]]:
                points = np.stack([x[piece], y[piece]], axis=1).round().astype(np.int32)
                cv2.polylines(image, [points], isClosed=False, color=color, thickness=1, lineType=cv2.LINE_AA)


def _page(tiles: list[Image], cols: int) -> Image:
    framed = [cv2.copyMakeBorder(tile, 0, MARGIN, 0, MARGIN, cv2.BORDER_CONSTANT, value=PAPER) for tile in tiles]
    rows = [np.concatenate(framed[i : i + cols], axis=1) for i in range(0, len(framed), cols)]
    page = np.concatenate(rows)
    return np.asarray(cv2.copyMakeBorder(page, MARGIN, 0, MARGIN, 0, cv2.BORDER_CONSTANT, value=PAPER), np.uint8)


def _write(image: Image, text: str, at: tuple[int, int], color: Color, scale: float) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)
