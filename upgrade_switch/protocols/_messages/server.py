"""
:func:`message_stream`: a coroutine function as the acceptor of the token ``websocket`` (RFC 6455 §4.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from websockets.extensions import Extension
from websockets.protocol import Side

from ...errors import InvalidArgument
from ...fields import accept_key
from ...interfaces import Acceptor, Answer
from ...negotiation import UpgradeToken
from ...server.request import UpgradeRequest
from ...server.upgrades import takes
from .._handshake import (
    MAX_MESSAGE_SIZE,
    SAME_ORIGIN,
    HandshakeRefused,
    OriginCheck,
    check_origin,
    check_request,
    check_size,
    origin_check,
    refuse,
    subprotocol_names,
)
from .._heartbeat import check_heartbeat
from . import compression
from .protocol import Agreed, Handler, MessageProtocol, Options

__all__ = ["HEARTBEAT", "MAX_QUEUE", "check_handler", "check_options", "message_stream"]

HEARTBEAT = 30
"""Seconds."""

MAX_QUEUE = 16
"""Messages."""


def check_handler(handler: Handler) -> None:
    """
    :raises InvalidArgument: if it cannot be called with a stream.
    """
    if not callable(handler):
        raise InvalidArgument(f"a handler is a coroutine function, not {handler!r}")
    if not takes(handler, 1):
        raise InvalidArgument(f"a handler is called with a stream alone: {handler!r}")


def check_options(heartbeat: float | None, max_message_size: int | None, max_queue: int) -> Options:
    """
    :raises InvalidArgument: if one of them makes no sense.
    """
    check_heartbeat(heartbeat)
    check_size(max_message_size)
    if isinstance(max_queue, bool) or not isinstance(max_queue, int) or max_queue < 1:
        raise InvalidArgument(f"max_queue is a number of messages above 0, not {max_queue!r}")
    return Options(heartbeat, max_message_size, max_queue)


def message_stream(
    handler: Handler,
    allowed_origins: Iterable[str] = SAME_ORIGIN,
    subprotocols: Iterable[str] = (),
    heartbeat: float | None = HEARTBEAT,
    max_message_size: int | None = MAX_MESSAGE_SIZE,
    max_queue: int = MAX_QUEUE,
    compression: bool = False,
) -> Acceptor:
    """
    An acceptor that opens WebSockets, and calls a coroutine function with each::

        async def echo(stream):
            async for message in stream:
                await stream.send(message)

        UpgradeResource({"websocket": message_stream(echo)})

    The request is checked as RFC 6455 §4.2 demands; a refusal is an ordinary HTTP answer. To refuse for
    reasons of your own, decide in an acceptor that then calls this one.

    When the handler returns, the stream closes with 1000; when it raises, with 1011, and the error is
    logged. It is not cancelled when the stream closes: iteration ends, or raises
    :class:`~upgrade_switch.errors.StreamClosed` where the connection was cut off. When the site drains,
    the stream closes with 1001.

    :param handler: called with each :class:`MessageStream`. It may also return a Deferred.
    :param allowed_origins: as for :func:`websocket`. By default, only the site's own pages.
    :param subprotocols: those that the handler speaks. The first of the client's list that is among
        them is answered; if there is none, the WebSocket opens without one.
    :param heartbeat: as for :func:`byte_stream`.
    :param max_message_size: as for :func:`websocket`.
    :param max_queue: how many messages may wait for the handler before reading stops. It also stops
        when these have as many bytes together as one message may have. (Then the connection's end is
        noticed within ten seconds.)
    :param compression: whether messages are compressed where the client offers it (RFC 7692), which
        costs some 50 KiB of memory for each connection.
    :return: the acceptor.
    :raises InvalidUpgrades: if an origin is invalid.
    :raises InvalidArgument: if ``handler`` cannot be called with a stream, a subprotocol is not a
        token, or a number is neither None nor above 0.
    """
    check_handler(handler)
    return _Acceptor(
        handler,
        origin_check(allowed_origins),
        subprotocol_names(subprotocols),
        check_options(heartbeat, max_message_size, max_queue),
        compression,
    )


@dataclass(frozen=True)
class _Acceptor:
    handler: Handler
    is_allowed: OriginCheck
    subprotocols: Sequence[str]
    options: Options
    compression: bool

    def __call__(self, request: UpgradeRequest, token: UpgradeToken) -> Answer:
        try:
            key, origin, offered = check_request(request, token)
            if origin is not None:
                check_origin(origin, self.is_allowed(origin, request))
        except HandshakeRefused as refused:
            return refuse(request, refused)
        # In the client's order.
        subprotocol = next((name for name in offered if name in self.subprotocols), None)
        set_header = request.responseHeaders.setRawHeaders
        extensions: list[Extension] = []
        if self.compression:
            lines = request.requestHeaders.getRawHeaders(b"sec-websocket-extensions") or ()
            answer = compression.answer(lines)
            if answer is not None:
                set_header(b"Sec-WebSocket-Extensions", [answer[0]])
                extensions.append(answer[1])
        if key is not None:
            set_header(b"Sec-WebSocket-Accept", [accept_key(key)])
        if subprotocol is not None:
            set_header(b"Sec-WebSocket-Protocol", [subprotocol.encode("ascii")])
        protocol = MessageProtocol(self.handler)
        agreed = Agreed(Side.SERVER, subprotocol, extensions)
        protocol.agree(agreed, self.options, request.site.reactor, request)
        return protocol
