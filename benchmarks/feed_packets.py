"""The footage as it lies in .bench/: encoded pictures of every form, and the robot's numbers beside them.

NumPy only: the other libraries' environments read it too. A frame's number is its place in the whole footage:
`episode * frames + step`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

FPS = 30
DOF = 26  # of a G1 with hands
HORIZON = 16
SIZE = 224
ORIGINAL, PAIRS, LEROBOT = "original", "h264-g2", "lerobot"  # 640×480
JPEG = "jpeg"  # 224×224
FORMS = (ORIGINAL, JPEG, LEROBOT, PAIRS)


@dataclass(frozen=True)
class Footage:
    """`episodes` of `frames` pictures each, in every form, under `folder`."""

    folder: Path
    episodes: int
    frames: int

    def __len__(self) -> int:
        return self.episodes * self.frames

    def packets(self, form: str, episode: int) -> list[bytes]:
        """One encoded picture each, in order."""
        ends = np.cumsum(np.load(self._sizes(form, episode))).tolist()
        body = self._body(form, episode).read_bytes()
        return [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def keep(self, form: str, episode: int, packets: list[bytes]) -> None:
        """The sizes go last: where they are, the packets are whole."""
        self._body(form, episode).parent.mkdir(parents=True, exist_ok=True)
        self._body(form, episode).write_bytes(b"".join(packets))
        np.save(self._sizes(form, episode), np.array([len(one) for one in packets], np.int32))

    def lacks(self, episode: int) -> list[str]:
        """The forms that are not there yet."""
        return [form for form in FORMS if not self._sizes(form, episode).exists()]

    def payload_bytes(self, form: str) -> int:
        return sum(self._body(form, episode).stat().st_size for episode in range(self.episodes))

    def _body(self, form: str, episode: int) -> Path:
        return self.folder / form / f"{episode:03d}.bin"

    def _sizes(self, form: str, episode: int) -> Path:
        return self.folder / form / f"{episode:03d}.npy"


def values(name: str, episode: int, frames: int) -> np.ndarray:
    """(frames, 26) float32 of `state` or `action`: a walk of its own in every joint."""
    steps = np.random.default_rng((episode, name == "action")).normal(0, 0.02, (frames, DOF))
    walk: np.ndarray = steps.cumsum(axis=0, dtype=np.float64).astype(np.float32)
    return walk


def chunks(actions: np.ndarray) -> np.ndarray:
    """(frames, 16, 26): the actions of each frame and of those after it; at the end the last one stays."""
    at = np.minimum(np.arange(len(actions))[:, None] + np.arange(HORIZON), len(actions) - 1)
    found: np.ndarray = actions[at]
    return found
