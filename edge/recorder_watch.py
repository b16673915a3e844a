"""The recorder's second look at itself: what it dropped becomes part of the record, and its state is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edge.recording import Words
from edge.records import Topic
from edge.state_file import read_state, write_state
from edge.topics import DROPPED
from edge.writer import WAIT_S

if TYPE_CHECKING:
    from edge.recorder import Recorder

LOOK_S = 1.0


class Watch:
    """A thread that looks once a second: drops, a state file for `fleetfeed edge status`, a status for the server."""

    def __init__(
        self,
        recorder: Recorder,
        words: Words,
        *,
        say: Callable[[Topic, int, Mapping[str, Any]], None],
        clock: Callable[[], int],
    ) -> None:
        self._recorder, self._words, self._say, self._clock = recorder, words, say, clock
        self._until_status_s = recorder.settings.status_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(WAIT_S)  # a disk that hangs holds it, not who closes

    def tell_drops(self) -> None:
        """Say what was dropped since the last time."""
        for drop in self._recorder.take_drops():
            self._say(DROPPED, self._clock(), drop)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - told as an alarm; the next look may succeed
                self._recorder.alarm(f"recorder's watch: {type(error).__name__}: {error}")

    def _look(self) -> None:
        self.tell_drops()
        recorder = self._recorder
        counts = {"recorded": recorder.recorded, "dropped": recorder.dropped, "last_seq": recorder.last_seqs}
        state = {**counts, "alarms": list(recorder.alarms)[-10:], "told_ns": self._clock()}
        write_state(recorder.spool.disk, recorder.spool.recorder_state_path(recorder.recording_id), state)
        self._words.seal()  # what the disk did not take before
        self._until_status_s -= LOOK_S
        if self._until_status_s <= 0:
            self._until_status_s = recorder.settings.status_s
            self._words.tell(self._clock(), self._status(state))

    def _status(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """For the server: how far each stream has come, what the spool holds, what the agent knows of the clock."""
        streams = {
            stream: {
                "recorded": recorded,
                "dropped": state["dropped"].get(stream, 0),
                "last_seq": state["last_seq"].get(stream, -1),
            }
            for stream, recorded in state["recorded"].items()
        }
        agent = read_state(self._recorder.spool.agent_state_path)
        alarms = [*state["alarms"], *agent.get("alarms", [])]
        return {"streams": streams, "spool": agent.get("spool", {}), "clock": agent.get("clock"), "alarms": alarms}
