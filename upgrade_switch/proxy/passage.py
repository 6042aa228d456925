"""
:class:`Passage`: one request on its way to a back end, and the answer on its way back.

How far it has come says its :class:`~.states.State`. Until the head of an answer has come, whatever
goes wrong becomes an answer of the proxy's own. After that the client's connection is all that can say
so: it is cut off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.error import ConnectionRefusedError, TimeoutError
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from zope.interface import implementer

from ..client.whole_answers import IAsker
from ..errors import InvalidArgument
from ..interfaces import Declined
from ..server.content import ContentStream
from ..server.decision import no_room
from ..server.pages import StatusPage, service_unavailable
from ..server.request import UpgradeRequest
from .answering import (
    AnswerReading,
    answer_with,
    awaits_continue,
    cut_off,
    flush,
    gather,
    joined,
    set_fields,
    tell_declined,
    when_left,
    why_declined,
)
from .deadline import Deadline
from .fields import AnswerFields, BadAnswer
from .plain import PlainPassage
from .states import State
from .targets import BadTarget
from .translation import Translation
from .troubles import bad_answer, half_an_answer, no_answer, not_taken
from .upload import Draining, Upload, may_repeat

if TYPE_CHECKING:
    from twisted.web.server import Request

    from ..client.exchange import Exchange
    from ..client.exchange_client import ExchangeClient
    from ..client.exchange_interfaces import Fields
    from ..connection import SwitchedConnection
    from .settings import Asked, Settings

__all__ = ["Passage"]


@implementer(IAsker)
class Passage(PlainPassage):
    """
    One request, and its answer.

    :ivar state: how far it has come.
    """

    def __init__(self, settings: Settings, request: Request, asked: Asked) -> None:
        """
        :param request: the client's, which this finishes.
        """
        self._settings = settings
        self._request = request
        self._asked = asked
        if asked.length:
            self._draining = Draining()
        self._deadline = Deadline(settings.timers, self._timed_out)

    def begin(self) -> None:
        """Send the request to a back end."""
        when_left(self._request, self._client_left)
        self._choose()

    # Connecting.

    def _choose(self) -> None:
        back_ends, asked = self._settings.back_ends, self._asked
        key = None
        if back_ends.is_sticky:
            key = back_ends.key_of(asked.client, asked.fields, self._settings.rules.trusted)
        attempt = back_ends.choose(key, self._tried)
        if attempt is None:
            self._answer(self._trouble or service_unavailable("No server is there for this now."))
            return
        self._attempt = attempt
        method = self._request.method
        translation = Translation.of(self._settings, method, self._asked, attempt.back_end)
        if isinstance(translation, BadTarget):
            self._answer(StatusPage(400, "Bad Request", f"This is {translation.why}."))
            return
        self._translation = translation
        self._connect(fresh=bool(translation.tokens))

    def _connect(self, fresh: bool) -> None:
        settings, attempt = self._settings, self._attempt
        assert attempt is not None
        self.state = State.CONNECTING
        key = (attempt.back_end.key, settings.key)
        if not fresh and (client := settings.pool.resting_client(key)) is not None:
            self._connected(client)
            return
        endpoint = attempt.back_end.endpoint(settings.reactor, settings.connect_timeout)
        connecting = self._connecting = settings.pool.exchange_client(key, endpoint, fresh)
        connecting.addCallbacks(self._connected, self._not_connected)

    def _not_connected(self, reason: Failure) -> None:
        self._connecting = None
        if self.state is State.OVER:
            return
        self._fail(reason, refused=reason.check(ConnectionRefusedError) is not None)
        # The request has not been sent anywhere.
        self._choose()

    def _connected(self, client: ExchangeClient) -> None:
        self._connecting = None
        if self.state is State.OVER:
            client.abort()
            return
        assert self._translation is not None
        self.state = State.WAITING
        if self._ask(client):
            return
        if self._asked.length and not self._has_retried:
            most = self._settings.max_body
            self._upload = Upload(most, self._too_long, self._moves, self._stalled)
        try:
            exchange = client.exchange(self._translation.head, self)
        except InvalidArgument as error:
            self._answer(StatusPage(400, "Bad Request", f"This cannot be passed on: {error}."))
            return
        # Else it has failed within that call, and something else has begun.
        if client.is_busy:
            self._exchange = exchange
            self._send(exchange)

    # The request.

    def _send(self, exchange: Exchange) -> None:
        upload = self._upload
        if upload is None:
            exchange.end()
            self._sent()
            return
        if awaits_continue(self._request):
            # The back end's turn comes before any content.
            self._wait(self._settings.response_timeout)
        upload.go_to(exchange)
        if not self._has_retried:
            if isinstance(self._request, UpgradeRequest):
                upload.streaming = self._request.stream_content(upload)
            else:
                upload.streaming = ContentStream(file=self._request.content).stream_to(upload)
            upload.streaming.addCallbacks(self._content_sent, self._content_failed)
        exchange.flush()

    def _content_sent(self, _: None) -> None:
        self._upload = None
        if self._exchange is not None:
            self._exchange.end()
            self._sent()

    def _content_failed(self, reason: Failure) -> None:
        """The client has left, has sent something that is not content, or has been answered."""
        self._upload = None
        self._end()

    def _sent(self) -> None:
        self._is_sent = True
        if self.state is State.WAITING:
            self._wait(self._settings.response_timeout)

    def _wait(self, seconds: float) -> None:
        """Have the back end answer, or take more of the request, within so many seconds."""
        if self._asked.length:
            asked = self._exchange or self._asking
            assert asked is not None
            self._draining.begin(asked)
        self._deadline.start(seconds)

    def _moves(self) -> None:
        """More of the content goes."""
        if self.state is State.WAITING:
            self._deadline.stop()
        else:
            self._deadline.restart()

    def _stalled(self, is_stalled: bool) -> None:
        if self.state is State.WAITING and is_stalled:
            self._wait(self._settings.idle_timeout)
        elif self.state is State.WAITING:
            self._deadline.stop()

    def _too_long(self) -> None:
        if self.state in (State.CONNECTING, State.WAITING):
            self._answer(StatusPage(413, "Content Too Large", "The content is too large."))
        elif self.state is State.ANSWERING:
            self._cut_off()

    # The answer (IExchangeListener).

    def informational(self, code: int, phrase: bytes, fields: Fields) -> None:
        is_awaited = awaits_continue(self._request)
        if code == 100 and is_awaited:
            self._deadline.stop()
        elif self._is_sent or is_awaited:
            self._wait(self._settings.response_timeout)
        if not isinstance(self._request, UpgradeRequest) or (code == 100 and not is_awaited):
            # A 100: Twisted has sent one, or the client does not wait.
            return
        assert self._translation is not None
        passed = self._translation.answer(code, fields)
        if isinstance(passed, AnswerFields):
            self._request.send_informational(code, phrase, passed.fields)

    def response(self, code: int, phrase: bytes, fields: Fields, version: bytes) -> None:
        assert self._attempt is not None
        assert self._translation is not None
        self._attempt.answered()
        passed = self._translation.answer(code, fields, version)
        if isinstance(passed, BadAnswer):
            self._bad_answer(passed)
            return
        self._settings.back_ends.learn(passed.fields, self._attempt.back_end)
        self.state = State.ANSWERING
        if not gather(self._request, code, phrase, passed.fields):
            self._flow()
        tell_declined(self._request, self._translation)

    def data(self, chunk: bytes) -> None:
        if self._is_flowing:
            self._deadline.restart()
        self._request.write(chunk)

    def caught_up(self) -> None:
        if self.state is State.ANSWERING and not self._is_flowing:
            self._flow()

    def _flow(self) -> None:
        """More of the answer comes later."""
        self._is_flowing = True
        flush(self._request)
        self._deadline.start(self._settings.idle_timeout)
        if self._exchange is not None:
            clock, stuck = self._settings.reactor, self._client_is_stuck
            self._reading = AnswerReading(self._request, self._exchange, self._deadline, clock, stuck)
            self._request.registerProducer(self._reading, True)

    def ended(self) -> None:
        self._exchange = None
        if self.state is State.ANSWERING:
            request = self._request
            if self._is_flowing:
                request.unregisterProducer()
            self._end()
            request.finish()

    def switched(
        self, code: int, phrase: bytes, fields: Fields, connection: SwitchedConnection
    ) -> None:
        self._exchange = None
        self._deadline.stop()
        assert self._translation is not None
        passed = self._translation.answer(code, fields)
        if isinstance(passed, BadAnswer):
            connection.abort()
            self._bad_answer(passed)
            return
        attempt, request = self._attempt, self._request
        assert isinstance(request, UpgradeRequest)
        assert passed.chosen is not None
        assert attempt is not None
        # Asked before the fields of the 101 are set, which another answer must not have.
        why = why_declined(request)
        if why is not None:
            connection.abort()
            attempt.answered()
            self._answer(no_room(why), why)
            return
        attempt.switched()
        self._settings.back_ends.learn(passed.fields, attempt.back_end)
        set_fields(request, passed.fields)
        near = joined(connection, self._settings.reactor, attempt.ended)
        # From here on, the splice sees to both connections.
        self.state, self._attempt = State.SWITCHED, None
        request.try_switch_to(passed.chosen, near, phrase)
        self._end()

    def failed(self, reason: Failure, may_retry: bool) -> None:
        self._exchange = None
        if self.state is State.ANSWERING:
            self._stops_midway(reason)
        elif may_retry and self._may_retry():
            self._has_retried = True
            if self._upload is not None:
                self._upload.stop()
            self._connect(fresh=True)
        elif self.state is State.WAITING:
            self._fail(reason)
            self._answer(self._trouble)

    def _may_retry(self) -> bool:
        asked = self._asked
        return not self._has_retried and may_repeat(self._request.method, asked.length, self._upload)

    # What goes wrong.

    def _fail(self, reason: Failure, refused: bool = False) -> None:
        """There is no answer from the back end that was chosen."""
        attempt, self._attempt = self._attempt, None
        assert attempt is not None
        self._tried += (attempt.back_end,)
        attempt.failed(refused)
        attempt.ended()
        self._trouble = no_answer(attempt.back_end, reason, self._settings.back_ends.now())

    def _bad_answer(self, bad: BadAnswer) -> None:
        """What has come must not reach the client."""
        assert self._attempt is not None
        self._attempt.failed()
        self._answer(bad_answer(self._attempt.back_end, bad, self._settings.back_ends.now()))

    def _timed_out(self) -> None:
        if self._asking is not None:
            self._asking.go_on()
        if self.state is State.WAITING:
            if self._asked.length and self._exchange and self._draining.goes_on(self._exchange):
                self._deadline.resume()
                return
            self._drop_exchange()
            self._fail(Failure(TimeoutError(string="it took too long to answer")))
            self._answer(self._trouble)
        elif self.state is State.ANSWERING:
            self._stops_midway(Failure(TimeoutError(string="the next part took too long")))

    def _answer(self, resource: IResource | None, why: Declined = Declined.ANSWERED) -> None:
        assert resource is not None
        request, translation = self._request, self._translation
        self._end()
        answer_with(request, resource)
        tell_declined(request, translation, why)

    def _stops_midway(self, reason: Failure) -> None:
        """Half of an answer must not look like the whole."""
        assert self._attempt is not None
        self._attempt.failed()
        half_an_answer(self._attempt.back_end, reason, self._settings.back_ends.now())
        self._cut_off()

    def _client_is_stuck(self) -> None:
        assert self._attempt is not None
        not_taken(self._attempt.back_end, self._settings.back_ends.now())
        self._cut_off(at_once=True)

    def _cut_off(self, at_once: bool = False) -> None:
        request = self._request
        self._end()
        cut_off(request, self._settings.reactor, at_once)

    def _client_left(self, _: Failure) -> None:
        request, translation = self._request, self._translation
        is_undecided = self.state in (State.CONNECTING, State.WAITING)
        self._end()
        if is_undecided:
            tell_declined(request, translation, Declined.LEFT)

    def _drop_exchange(self) -> None:
        asked, self._exchange, self._asking = self._exchange or self._asking, None, None
        if asked is not None:
            asked.abort()

    def _end(self) -> None:
        """Let everything go; what is at work is cancelled. Harmless when it is over."""
        self.state = State.OVER
        self._deadline.give_up()
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.end()
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        if self._exchange is not None or self._asking is not None:
            self._drop_exchange()
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.give_up()
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.ended()
        self._request = None  # type: ignore[assignment]  # nobody asks for it any more
