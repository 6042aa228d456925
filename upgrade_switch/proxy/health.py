"""
:class:`HealthChecks`: asks back ends how they are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ..client.exchange_interfaces import ExchangeHead, IExchangeListener
from ..errors import InvalidArgument
from .deadline import Deadline

if TYPE_CHECKING:
    from ..client.exchange import Exchange
    from ..client.exchange_client import ExchangeClient
    from ..client.exchange_interfaces import Fields
    from ..connection import SwitchedConnection
    from .backend import BackEnd
    from .settings import Settings

__all__ = ["HealthChecks"]

_log = Logger()

_PATH = re.compile(r"/[!-~]*\Z")

# Seconds between two checks, and how long one may take.
_INTERVAL = 5
_CHECK_TIMEOUT = 4


class HealthChecks(Factory):
    """
    Asks each back end for a path every few seconds, from :meth:`begin` to :meth:`end`. It builds
    nothing: a site starts and stops the factories that are used on it, and these checks with them.
    """

    noisy = False

    def __init__(self, settings: Settings, path: str) -> None:
        """
        :param path: from the root of the back end, such as ``"/health"``.
        :raises InvalidArgument: if it is no such path.
        """
        if not (
            isinstance(path, str) and path.startswith("/") and path.isascii() and path.isprintable()
        ):
            raise InvalidArgument(f"health is a path that begins with a slash, not {path!r}")
        if " " in path:
            raise InvalidArgument(f"health is a path without spaces, not {path!r}")
        self._settings = settings
        self._path = path.encode("ascii")
        self._loop = LoopingCall(self._check_all)
        self._loop.clock = settings.reactor
        self._at_work: set[_Check] = set()

    def startFactory(self) -> None:
        self.begin()

    def stopFactory(self) -> None:
        self.end()

    def begin(self) -> None:
        """Ask now, and then every few seconds; harmless when it has begun."""
        if not self._loop.running:
            self._loop.start(_INTERVAL)

    def end(self) -> None:
        """Ask no more; harmless when nothing is asked. Those that are down would be so for ever."""
        if self._loop.running:
            self._loop.stop()
        for check in tuple(self._at_work):
            check.cancel()
        for back_end in self._settings.back_ends:
            back_end.mark_up()

    def buildProtocol(self, addr: IAddress | None) -> None:
        return None

    def _check_all(self) -> None:
        busy = {check.back_end for check in self._at_work}
        for back_end in self._settings.back_ends:
            if back_end not in busy:
                check = _Check(self._settings, back_end, self._path, self._at_work)
                self._at_work.add(check)
                check.begin()


@implementer(IExchangeListener)
class _Check:
    """
    One question to one back end.

    :ivar back_end: which.
    """

    def __init__(
        self, settings: Settings, back_end: BackEnd, path: bytes, at_work: set[_Check]
    ) -> None:
        self.back_end = back_end
        self._settings = settings
        self._path = path
        self._at_work = at_work
        self._deadline = Deadline(settings.timers, self._timed_out)
        self._exchange: Exchange | None = None
        self._is_over = False

    def begin(self) -> None:
        settings, back_end = self._settings, self.back_end
        self._deadline.start(_CHECK_TIMEOUT)
        endpoint = back_end.endpoint(settings.reactor, _CHECK_TIMEOUT)
        key = (back_end.key, settings.key)
        self._connecting = settings.pool.exchange_client(key, endpoint)
        self._connecting.addCallbacks(self._connected, lambda reason: self._over(str(reason.value)))

    def _connected(self, client: ExchangeClient) -> None:
        if self._is_over:
            client.abort()
            return
        fields = [(b"Host", self.back_end.authority), (b"User-Agent", b"upgrade-switch")]
        exchange = client.exchange(ExchangeHead(b"GET", self._path, fields), self)
        if client.is_busy:
            self._exchange = exchange
            exchange.end()

    def _timed_out(self) -> None:
        self.cancel()
        self._note("it took too long to answer")

    def cancel(self) -> None:
        """Ask no longer; nothing is known then."""
        self._finish()
        self._connecting.cancel()

    def _finish(self) -> None:
        self._is_over = True
        self._deadline.give_up()
        self._at_work.discard(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abort()

    def _over(self, trouble: str) -> None:
        if not self._is_over:
            self._finish()
            self._note(trouble)

    def _note(self, trouble: str) -> None:
        """
        :param trouble: empty if there is none.
        """
        back_end = self.back_end
        if trouble and not back_end.is_down:
            _log.warn("{url} is down: {trouble}", url=back_end.url, trouble=trouble)
            back_end.mark_down()
        elif not trouble and back_end.is_down:
            _log.info("{url} is up again", url=back_end.url)
            back_end.mark_up()

    # IExchangeListener.

    def informational(self, code: int, phrase: bytes, fields: Fields) -> None:
        """Not what was asked for."""

    def response(self, code: int, phrase: bytes, fields: Fields, version: bytes) -> None:
        self._answer = code

    def data(self, chunk: bytes) -> None:
        """Nobody reads it."""

    def caught_up(self) -> None:
        """There is nothing to be done meanwhile."""

    def ended(self) -> None:
        self._exchange = None
        self._over("" if 200 <= self._answer < 400 else f"it answers {self._answer}")

    def switched(
        self, code: int, phrase: bytes, fields: Fields, connection: SwitchedConnection
    ) -> None:
        """It was not asked to."""

    def failed(self, reason: Failure, may_retry: bool) -> None:
        self._exchange = None
        if may_retry:
            # The connection had rested for too long. The next question has another one.
            self._finish()
        else:
            self._over(str(reason.value) or type(reason.value).__name__)
