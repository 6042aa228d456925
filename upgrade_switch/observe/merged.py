"""
:class:`Merged`: what several processes that serve the same have counted, as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zope.interface import implementer

from ..interfaces import IBackEnd
from .status import MOST_RECENT, MOST_SHOWN, Snapshot, nested

__all__ = ["DIED", "Merged", "past"]

DIED = "process died"
"""Why connections have ended whose process has died."""

_STATES = ("up", "ejected", "down")
_COUNTED_OF_BACK_ENDS = ("requests", "upgrades", "errors")


@implementer(IBackEnd)
@dataclass
class _BackEnd:
    """A back end of a reverse proxy, as all processes see it together."""

    url: str
    state: str
    active: int
    requests: int
    upgrades: int
    errors: int
    latency: float | None


class Merged:
    """
    The sum of snapshots (:meth:`~upgrade_switch.observe.Status.snapshot`), read as a ``Status`` is.

    :ivar process: what the processes use together, by the name of Prometheus' metric.
    """

    def __init__(self, snapshots: Sequence[Snapshot]) -> None:
        """
        :param snapshots: one at least.
        """
        self._snapshots = snapshots
        totals = [snapshot["totals"] for snapshot in snapshots]
        self.switches: Counter[str] = _sum(total["switched"] for total in totals)
        self.ends = _flat(total["ended"] for total in totals)
        self.declines = _flat(total["declined"] for total in totals)
        self.floods: int = sum(total.get("floods", 0) for total in totals)
        self._bytes = _flat(total["bytes"] for total in totals)
        self._live: Counter[str] = _sum(snapshot["live"] for snapshot in snapshots)
        self.process = _processes([snapshot["process"] for snapshot in snapshots])

    def live_by_token(self) -> Counter[str]:
        return self._live

    def bytes_by_token(self) -> Counter[tuple[str, str]]:
        return self._bytes

    def back_ends(self) -> Iterator[tuple[str, IBackEnd]]:
        """
        The back ends, each with the path of its proxy, in the worst state that a process has seen.
        """
        found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for snapshot in self._snapshots:
            for each in snapshot.get("back_ends", ()):
                found.setdefault((each["path"], each["url"]), []).append(each)
        past = self._past_of_back_ends()
        for (path, url), seen in found.items():
            counts = _sum(
                {name: each[name] for name in ("active", *_COUNTED_OF_BACK_ENDS)} for each in seen
            )
            counts.update(past.get((path, url), {}))
            latencies = [each["latency"] for each in seen if each["latency"] is not None]
            yield (
                path,
                _BackEnd(
                    url,
                    max((each["state"] for each in seen), key=_STATES.index),
                    counts["active"],
                    counts["requests"],
                    counts["upgrades"],
                    counts["errors"],
                    sum(latencies) / len(latencies) if latencies else None,
                ),
            )

    def _past_of_back_ends(self) -> dict[tuple[str, str], Counter[str]]:
        """What processes that have ended have counted of each back end."""
        found: dict[tuple[str, str], Counter[str]] = {}
        for snapshot in self._snapshots:
            for each in snapshot.get("past_of_back_ends", ()):
                counts = {name: each[name] for name in _COUNTED_OF_BACK_ENDS}
                found.setdefault((each["path"], each["url"]), Counter()).update(counts)
        return found

    def counted_of_back_ends(self) -> list[dict[str, object]]:
        """What has been counted of each back end, also of those that no process has any more."""
        found = self._past_of_back_ends()
        for path, each in self.back_ends():
            found[path, each.url] = Counter(
                {name: getattr(each, name) for name in _COUNTED_OF_BACK_ENDS}
            )
        return [{"path": path, "url": url, **counts} for (path, url), counts in found.items()]

    def as_json(self) -> dict[str, Any]:
        """The same as that of a ``Status``."""
        snapshots = self._snapshots
        switched = [each for snapshot in snapshots for each in snapshot["switched"]]
        declined = [each for snapshot in snapshots for each in snapshot["declined"]]
        back_ends = [{"path": path, **vars(each)} for path, each in self.back_ends()]
        return {
            "now": max(snapshot["now"] for snapshot in snapshots),
            "since": min(snapshot["since"] for snapshot in snapshots),
            "switched": sorted(switched, key=lambda each: each["since"], reverse=True)[:MOST_SHOWN],
            "declined": sorted(declined, key=lambda each: each["time"], reverse=True)[:MOST_RECENT],
            **({"back_ends": back_ends} if back_ends else {}),
            "totals": {
                "live": self._live.total(),
                "switched": dict(self.switches),
                "ended": nested(self.ends),
                "declined": nested(self.declines),
                "bytes": nested(self._bytes),
                **({"floods": self.floods} if self.floods else {}),
            },
        }


def past(snapshots: Sequence[Snapshot]) -> Snapshot:
    """
    What remains of processes that have ended: what they have counted. Connections that they still had
    have ended with them.
    """
    merged = Merged(snapshots)
    merged.ends.update({(token, DIED): count for token, count in merged.live_by_token().items()})
    totals = {**merged.as_json()["totals"], "ended": nested(merged.ends), "live": 0}
    # The CPU time was used; memory and descriptors are free again.
    process = {name: merged.process[name] for name in _COUNTED if name in merged.process}
    shown = {**merged.as_json(), "totals": totals, "switched": [], "back_ends": []}
    back_ends = merged.counted_of_back_ends()
    return {**shown, "past_of_back_ends": back_ends, "live": {}, "process": process}


_COUNTED = ("process_cpu_seconds",)
_BEGAN = "process_start_time_seconds"


def _processes(processes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for process in processes:
        for name, value in process.items():
            before = found.get(name)
            if before is None:
                found[name] = value
            else:
                found[name] = min(before, value) if name == _BEGAN else before + value
    return found


def _sum(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for each in counts:
        found.update(each)
    return found


def _flat(counts: Iterable[Mapping[str, Mapping[str, int]]]) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for each in counts:
        for token, of_token in each.items():
            found.update({(token, name): count for name, count in of_token.items()})
    return found
