"""
:class:`PlainPassage`: the plain way of a request to a back end, and of its answer back.

Nearly every request is plain, and is there as a whole; so is nearly every answer. Such a request is
sent in one go, and such an answer is passed on as it has come. In between, there is no exchange. As
soon as there is anything else (an answer that is not plain, or not there as a whole, a back end that
fails, a time-out), there is one, as if there had been one from the beginning
(:meth:`PlainPassage.goes_on`), and the request goes on as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _twisted
from ..server.request import UpgradeRequest
from ..server.whole import send_whole, takes_whole
from .plain_heads import Passing, head_for_client, passing
from .states import State

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.web.resource import IResource
    from twisted.web.server import Request

    from ..client.exchange import Exchange
    from ..client.exchange_client import ExchangeClient
    from ..client.exchange_interfaces import ExchangeHead
    from ..client.whole_answers import WholeAnswer
    from .answering import AnswerReading
    from .backends import BackEnd
    from .backends import Exchange as Attempt
    from .settings import Asked, Settings
    from .translation import Translation
    from .upload import Draining, Upload

__all__ = ["PlainPassage"]


class PlainPassage:
    """
    What a passage does on the plain way (``client.whole_answers.IAsker``).
    """

    _settings: Settings
    _request: Request
    _asked: Asked
    # Nearly all of the rest is never set.
    state = State.CONNECTING
    # The back ends that have failed.
    _tried: tuple[BackEnd, ...] = ()
    _attempt: Attempt | None = None
    _translation: Translation | None = None
    _connecting: Deferred[ExchangeClient] | None = None
    # The connection that was asked, until there is an exchange.
    _asking: ExchangeClient | None = None
    _exchange: Exchange | None = None
    # If the request has a content.
    _draining: Draining
    _upload: Upload | None = None
    _has_retried = _is_sent = _is_flowing = False
    _reading: AnswerReading | None = None
    # What passes of a plain answer.
    _passing: Passing | None = None
    # The proxy's own answer if there is no other back end.
    _trouble: IResource | None = None

    def _ask(self, client: ExchangeClient) -> bool:
        """
        Send the request the plain way.

        :return: False if it cannot go that way: then nothing has been done.
        """
        assert self._translation is not None
        head = self._translation.plain_head()
        if head is None or client.is_over:
            return False
        request = self._request
        is_head, content = request.method == b"HEAD", b""
        if self._asked.length:
            if is_head or not isinstance(request, UpgradeRequest):
                return False
            whole = request.take_content()
            if whole is None:
                return False
            content = whole
        self._asking, self._is_sent = client, True
        data, size = head + content, len(content)
        client.ask(data, size, is_head, self)  # type: ignore[arg-type]  # every passage is an asker
        if self.state is State.WAITING:
            self._wait(self._settings.response_timeout)
        return True

    def takes_whole(self, answer: WholeAnswer) -> bool:
        settings = self._settings
        self._passing = passing(
            answer.names,
            answer.code,
            settings.rewrite_location,
            settings.rewrite_cookies,
            settings.back_ends.learns,
        )
        return self._passing is not None and takes_whole(self._request)

    def answered(self, answer: WholeAnswer) -> None:
        self._asking = None
        assert self._attempt is not None
        self._attempt.answered()
        request = self._request
        assert isinstance(request, UpgradeRequest)
        assert self._passing is not None
        self._end()
        code, phrase, _, size, data = answer
        # This server's own, which it has set.
        date = _twisted.raw_fields(request.responseHeaders)[b"Date"][0]
        head = head_for_client(data[:size], self._passing, self._settings.rules.pseudonym, date)
        send_whole(request, code, phrase, head, data[size:])

    def asked_head(self) -> ExchangeHead:
        assert self._translation is not None
        return self._translation.head

    def goes_on(self, exchange: Exchange) -> None:
        self._asking, self._exchange = None, exchange

    # The rest is the passage's.

    def _wait(self, seconds: float) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError
