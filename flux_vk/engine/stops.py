"""Stop strings across token borders. Plain text, no tokens."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from ..errors import InputError


class StopText:
    """Holds text back while it may be the beginning of a stop string."""

    def __init__(self, stops: Seq[str]) -> None:
        stops = (stops,) if isinstance(stops, str) else tuple(stops)
        if any(not isinstance(s, str) or not s for s in stops):
            raise InputError(f"stop strings are {list(stops)!r}; expected texts of at least one character")
        self._stops = stops
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """The text that can be shown now; sets `hit` when a stop string is complete (it is not shown)."""
        self._held += text
        found = [i for i in (self._held.find(s) for s in self._stops) if i >= 0]
        if found:
            self.hit = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = 0
        for stop in self._stops:
            for n in range(min(len(stop) - 1, len(self._held)), keep, -1):
                if self._held.endswith(stop[:n]):
                    keep = n
                    break
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """What was held back, when no more text follows."""
        shown, self._held = self._held, ""
        return shown
