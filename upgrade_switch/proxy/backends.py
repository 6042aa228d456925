"""
The servers behind a reverse proxy, and which of them gets a request: :class:`BackEnds`.

Pure bookkeeping: those that send the requests report what happens to them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import TypeAlias

from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IPolicyForHTTPS

from ..errors import InvalidArgument
from ..fields import is_token
from .backend import BackEnd
from .forwarded import Client, Field, Trusted, client_address, lines_of

__all__ = ["BackEnd", "BackEnds", "Exchange"]

URLs: TypeAlias = str | bytes | Iterable[str | bytes]

# This many requests in a row without an answer, and a back end gets none for a while.
FAILURES = 3

_NOBODY = Trusted()

# Sessions that are remembered, each in some 300 bytes.
MOST_REMEMBERED = 10_000


class Exchange:
    """
    A request at a back end, from the choice to the end of the answer or of the switched connection.
    Whoever has chosen calls :meth:`ended`, however it ends.

    :ivar back_end: where the request goes.
    """

    def __init__(self, back_ends: BackEnds, back_end: BackEnd, since: float) -> None:
        """
        :param since: the time now.
        """
        self.back_end = back_end
        self._back_ends = back_ends
        self._since = since
        self._ejections = back_end.ejections
        self._is_answered = self._has_failed = self._has_ended = False
        self._is_trial = back_end.retry_at is not None
        back_end.active += 1
        back_end.requests += 1
        if self._is_trial:
            back_end.try_again(True)

    @property
    def _is_current(self) -> bool:
        """Whether it says something about the back end: not if that was ejected meanwhile."""
        return self._ejections == self.back_end.ejections

    def answered(self) -> None:
        """The head of an answer has come, of a 101 too."""
        if self._is_answered or self._has_failed:
            return
        self._is_answered = True
        back_end = self.back_end
        back_end.took(self._back_ends.now() - self._since)
        if back_end.failures and self._is_current:
            back_end.recover()

    def switched(self) -> None:
        """The answer was a 101: the back end has the connection until :meth:`ended`."""
        self.answered()
        self.back_end.upgrades += 1

    def failed(self, refused: bool = False) -> None:
        """
        There is no answer, or not all of it.

        :param refused: whether the back end has refused the connection.
        """
        if self._has_failed or self._has_ended:
            return
        self._has_failed = True
        self.back_end.errors += 1
        if self._is_current and not self._is_answered:
            self._back_ends.note_failure(self.back_end, refused)

    def ended(self) -> None:
        """It is over; only the first call counts."""
        if self._has_ended:
            return
        self._has_ended = True
        self.back_end.active -= 1
        if self._is_trial and self._is_current:
            # If nobody knows how it would have ended, the next request tries.
            self.back_end.try_again(False)


class BackEnds:
    """
    Several back ends, and the choice among them: the one with the fewest active requests and switched
    connections; of several, the one whose turn was longest ago.

    A back end that fails three requests in a row, or refuses a connection while there are others, gets
    none for a second, then for two, up to 30. Then one request tries it. If none is left, the one that
    comes back first is tried anyway.

    :ivar learns: whether :meth:`learn` makes a difference.
    """

    def __init__(
        self,
        urls: URLs,
        clock: IReactorTime,
        sticky: str | None = None,
        policy: IPolicyForHTTPS | None = None,
    ) -> None:
        """
        :param urls: one URL or several, as :class:`BackEnd` takes them.
        :param sticky: what keeps a client at one back end as long as that is there: ``"address"``, or
            the name of a cookie that the application sets, such as its session's.
        :param policy: as for :class:`BackEnd`.
        :raises InvalidArgument: if there is no URL, a wrong one or one twice, or no such cookie.
        """
        if sticky is not None and not (isinstance(sticky, str) and is_token(sticky)):
            raise InvalidArgument(f"sticky is 'address' or the name of a cookie, not {sticky!r}")
        self._clock = clock
        self._sticky = sticky
        self._policy = policy
        self._turns = 0
        # Which session is where, as far as its key alone does not say it; the latest last.
        self._sessions: OrderedDict[bytes, str] = OrderedDict()
        self._all: tuple[BackEnd, ...] = ()
        self.replace(urls)

    def replace(self, urls: URLs) -> None:
        """
        Have other back ends from now on. Those that stay keep what is known about them; what goes on at
        those that go is not disturbed.

        :raises InvalidArgument: as the constructor does; then nothing has changed.
        """
        listed = [urls] if isinstance(urls, str | bytes) else urls
        if not isinstance(listed, Iterable):
            raise InvalidArgument(f"the back ends are a URL or several, not {listed!r}")
        known = {back_end.url: back_end for back_end in self._all}
        made = [BackEnd(url, self._policy) for url in listed]
        if not made or len({back_end.url for back_end in made}) < len(made):
            raise InvalidArgument("a proxy has at least one back end, and none twice")
        self._all = tuple(known.get(back_end.url, back_end) for back_end in made)
        self.learns = self._sticky not in (None, "address") and len(self._all) > 1

    def __iter__(self) -> Iterator[BackEnd]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def now(self) -> float:
        """The time on the clock of these."""
        return self._clock.seconds()

    def key_of(
        self, client: Client, fields: Sequence[Field], trusted: Trusted = _NOBODY
    ) -> bytes | None:
        """
        What keeps a client at one back end: its address, or the value of a cookie.

        :param fields: those of the request.
        :param trusted: the proxies that are believed which address it comes from.
        :return: None if nothing does.
        """
        if self._sticky == "address":
            address = client_address(fields, client, trusted)
            return None if address is None else address.encode()
        if self._sticky is None:
            return None
        pairs = b";".join(lines_of(fields, b"cookie")).split(b";")
        return _value_of(self._sticky.encode("ascii"), pairs)

    def choose(self, key: bytes | None = None, avoid: Collection[BackEnd] = ()) -> Exchange | None:
        """
        Choose a back end for a request.

        :param key: from :meth:`key_of`.
        :param avoid: those that this request has been at.
        :return: the request there, which has begun; None if there is no back end left for it.
        """
        now = self._clock.seconds()
        chosen = self._all[0]
        # As a rule, there is one, and it is there.
        if avoid or len(self._all) > 1 or chosen.is_down or chosen.retry_at is not None:
            left = [each for each in self._all if not each.is_down and each not in avoid]
            ready = [each for each in left if each.is_ready(now)]
            if ready:
                chosen = self._best(ready, key)
            elif left:
                chosen = min(left, key=lambda each: each.retry_at or now)
            else:
                return None
        self._turns += 1
        chosen.turn = self._turns
        return Exchange(self, chosen, now)

    def _best(self, ready: Sequence[BackEnd], key: bytes | None) -> BackEnd:
        if len(ready) == 1:
            return ready[0]
        if key is None:
            return min(ready, key=lambda each: (each.active, each.turn))
        url = self._sessions.get(key)
        known = next((each for each in ready if each.url == url), None)
        return known or max(ready, key=lambda each: _score(key, each))

    @property
    def is_sticky(self) -> bool:
        """Whether :meth:`key_of` finds anything."""
        return self._sticky is not None

    def learn(self, fields: Iterable[Field], back_end: BackEnd) -> None:
        """
        Note in which back end's answer the cookie is set by which clients are kept there: the first
        request of a session has none, and so went anywhere.

        :param fields: those of the answer.
        """
        if not self.learns:
            return
        assert self._sticky is not None
        name = self._sticky.encode("ascii")
        for line in lines_of(fields, b"set-cookie"):
            key = _value_of(name, line.split(b";")[:1])
            if key is not None:
                self._remember(key, back_end)

    def _remember(self, key: bytes, back_end: BackEnd) -> None:
        self._sessions.pop(key, None)
        if back_end is not max(self._all, key=lambda each: _score(key, each)):
            self._sessions[key] = back_end.url
            if len(self._sessions) > MOST_REMEMBERED:
                self._sessions.popitem(last=False)

    def note_failure(self, back_end: BackEnd, refused: bool) -> None:
        """A request to a back end has not been answered: it may be enough."""
        back_end.failures += 1
        has_others = any(each.state == "up" for each in self._all if each is not back_end)
        is_enough = back_end.failures >= FAILURES or back_end.retry_at is not None
        if is_enough or (refused and has_others):
            back_end.eject(self.now())


def _value_of(name: bytes, pairs: Iterable[bytes]) -> bytes | None:
    """The value of a cookie among ``name=value`` pairs (RFC 6265 §4.2, §5.2), if it is not empty."""
    for pair in pairs:
        found, equals, value = pair.partition(b"=")
        if equals and found.strip(b" \t") == name:
            return value.strip(b" \t") or None
    return None


def _score(key: bytes, back_end: BackEnd) -> bytes:
    """
    How well a key and a back end fit, at random and always the same (rendezvous hashing): if one of
    several goes, only its own clients go elsewhere.
    """
    return blake2b(back_end.url.encode() + b"\0" + key, digest_size=8).digest()
