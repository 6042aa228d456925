"""
:class:`Status`: counts what is switched now, what has been, and what was declined.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from ..fields import printable
from ..interfaces import (
    Declined,
    IBackEnd,
    ICountsBytes,
    ISwitchedConnection,
    ISwitchObserver,
    IUpgradeRequest,
)
from ..negotiation import UpgradeToken
from .events import IFloodObserver, path_text, peer_text, target_text, why_ended

__all__ = ["MOST_RECENT", "MOST_SHOWN", "IReading", "Snapshot", "Status", "nested"]

# What strangers can fill is bounded: characters of a path, names that are counted, connections in one
# answer, declined upgrades that are remembered.
_MOST_PATH, _MOST_NAMES, MOST_SHOWN, MOST_RECENT = 200, 100, 1000, 50


Snapshot = dict[str, Any]
"""What a ``Status`` knows, in what JSON knows: all that :class:`~.merged.Merged` needs."""


class IReading(Protocol):
    """What pages and metrics show: a ``Status``, or the sum of several."""

    switches: Counter[str]
    ends: Counter[tuple[str, str]]
    declines: Counter[tuple[str, str]]
    floods: int

    def live_by_token(self) -> Counter[str]: ...

    def bytes_by_token(self) -> Counter[tuple[str, str]]: ...

    def back_ends(self) -> Iterator[tuple[str, IBackEnd]]: ...

    def as_json(self) -> dict[str, Any]: ...


class _Refusal(NamedTuple):
    """An upgrade that was declined, or a flood that was ended."""

    time: float
    tokens: str
    path: str
    peer: str
    why: str
    detail: str | None


@implementer(ISwitchObserver, IFloodObserver)
class Status:
    """
    Counts what happens to the upgrades of one site, or of several: give it to
    ``UpgradeSite(observers=[status])``.

    :ivar live: the connections that are switched now, the oldest first.
    :ivar switches: how many connections have switched, by token; ``""`` stands for those without one.
    :ivar ends: how many of these are over, by token and kind of end (:func:`why_ended`).
    :ivar declines: how many upgrades were answered in HTTP, by token (``""``: no known one) and
        :class:`Declined`.
    :ivar floods: how many HTTP/2 connections were ended because their clients asked for too much.
    """

    def __init__(self, clock: IReactorTime) -> None:
        """
        :param clock: the clock of the sites: a reactor.
        """
        self._clock = clock
        self._began = clock.seconds()
        self.live: dict[ISwitchedConnection, None] = {}
        # Those of them whose targets count bytes: most do not, and need not be asked.
        self._counting: dict[ISwitchedConnection, None] = {}
        self.switches: Counter[str] = Counter()
        self.ends: Counter[tuple[str, str]] = Counter()
        self.declines: Counter[tuple[str, str]] = Counter()
        self.floods = 0
        self._bytes: Counter[tuple[str, str]] = Counter()
        self._recent: deque[_Refusal] = deque(maxlen=MOST_RECENT)
        self._names = {""}
        self._proxies: dict[str, Callable[[], Sequence[IBackEnd]]] = {}

    def show_back_ends(self, mount: str, source: Callable[[], Sequence[IBackEnd]]) -> None:
        """
        Show the back ends of a reverse proxy, too.

        :param mount: the path of the proxy, such as ``"/app"``.
        :param source: called for them whenever the page is shown.
        """
        self._proxies[mount] = source

    def hide_back_ends(self, mount: str) -> None:
        """Show those of a reverse proxy no more."""
        self._proxies.pop(mount, None)

    def back_ends(self) -> Iterator[tuple[str, IBackEnd]]:
        """The back ends that are shown, each with the path of its proxy."""
        for mount, source in self._proxies.items():
            for back_end in source():
                yield mount, back_end

    def switched(self, connection: ISwitchedConnection) -> None:
        self.live[connection] = None
        # It may have had another target before.
        self._counting.pop(connection, None)
        if ICountsBytes.providedBy(connection.target):
            self._counting[connection] = None
        self.switches[self._name(connection.token)] += 1

    def ended(self, connection: ISwitchedConnection, seconds: float, reason: Failure) -> None:
        self.live.pop(connection, None)
        self.ends[self._name(connection.token), why_ended(reason)] += 1
        if connection in self._counting:
            self._bytes.update(self._bytes_of(connection))
            del self._counting[connection]

    def declined(self, request: IUpgradeRequest, token: UpgradeToken | None, why: Declined) -> None:
        self.declines[self._name(token), why] += 1
        self._recent.append(
            _Refusal(
                self._clock.seconds(),
                str(token or request.offer)[:_MOST_PATH],
                path_text(request.path)[:_MOST_PATH],
                peer_text(request.getClientAddress()),
                why,
                printable(request.decline_detail)[:_MOST_PATH] or None,
            )
        )

    def flooded(self, peer: IAddress) -> None:
        self.floods += 1
        self._recent.append(
            _Refusal(self._clock.seconds(), "HTTP/2", "", peer_text(peer), "flood", None)
        )

    def _name(self, token: UpgradeToken | None) -> str:
        """A token's name, for counting: its version is the client's, and so may the name be."""
        name = "" if token is None else token.key[0]
        if name not in self._names:
            if len(self._names) >= _MOST_NAMES:
                return "other"
            self._names.add(name)
        return name

    def as_json(self) -> dict[str, Any]:
        """
        All of it, in what JSON knows: times in ISO 8601 (UTC), durations in seconds. Of more than a
        thousand connections the newest are listed. Only where a reverse proxy is shown are there
        ``back_ends``, and only if there were any, ``floods``.
        """
        now = self._clock.seconds()
        newest = list(islice(reversed(self.live), MOST_SHOWN))
        back_ends = [_back_end_as_json(mount, each) for mount, each in self.back_ends()]
        return {
            "now": _iso(now),
            "since": _iso(self._began),
            "switched": [_as_json(connection, now) for connection in newest],
            "declined": [
                {**refusal._asdict(), "time": _iso(refusal.time)} for refusal in reversed(self._recent)
            ],
            **({"back_ends": back_ends} if back_ends else {}),
            "totals": {
                "live": len(self.live),
                "switched": dict(self.switches),
                "ended": nested(self.ends),
                "declined": nested(self.declines),
                "bytes": nested(self.bytes_by_token()),
                **({"floods": self.floods} if self.floods else {}),
            },
        }

    def snapshot(self, process: Mapping[str, float]) -> Snapshot:
        """
        All of it, for another process.

        :param process: what this process uses, by the name of Prometheus' metric.
        """
        return {**self.as_json(), "live": dict(self.live_by_token()), "process": dict(process)}

    def gather(self) -> Deferred[IReading]:
        """
        :return: fires with what is to be shown: this, unless there is more to be seen elsewhere.
        """
        return succeed(self)

    def bytes_by_token(self) -> Counter[tuple[str, str]]:
        """
        How many bytes targets that count them got (``"in"``) and sent (``"out"``), by token; of those
        that are switched now, too.
        """
        counted = self._bytes.copy()
        for connection in self._counting:
            counted.update(self._bytes_of(connection))
        return counted

    def _bytes_of(self, connection: ISwitchedConnection) -> dict[tuple[str, str], int]:
        name = self._name(connection.token)
        counts = {"in": connection.bytes_in, "out": connection.bytes_out}
        return {(name, way): count for way, count in counts.items() if count is not None}

    def live_by_token(self) -> Counter[str]:
        """How many connections are switched now, by token."""
        return Counter(self._name(connection.token) for connection in self.live)


def _as_json(connection: ISwitchedConnection, now: float) -> dict[str, object]:
    return {
        "token": None if connection.token is None else str(connection.token)[:_MOST_PATH],
        "path": path_text(connection.path)[:_MOST_PATH],
        "peer": peer_text(connection.peer),
        "since": _iso(connection.since),
        "seconds": round(now - connection.since, 3),
        "target": target_text(connection.target),
        "user": connection.user,
        "bytes_in": connection.bytes_in,
        "bytes_out": connection.bytes_out,
    }


def _back_end_as_json(mount: str, back_end: IBackEnd) -> dict[str, object]:
    return {
        "path": mount,
        "url": back_end.url,
        "state": back_end.state,
        "active": back_end.active,
        "requests": back_end.requests,
        "upgrades": back_end.upgrades,
        "errors": back_end.errors,
        "latency": None if back_end.latency is None else round(back_end.latency, 3),
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def nested(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (token, why), count in counts.items():
        nested.setdefault(token, {})[why] = count
    return nested
