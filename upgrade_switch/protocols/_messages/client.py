"""
:class:`MessageEndpoint`: opens WebSockets on a client, for ``ClientService`` and whatever takes an
endpoint (RFC 6455 §4.1).
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from websockets.frames import CloseCode
from websockets.protocol import Side
from zope.interface import implementer

from ...client.endpoint import unwrap_cancelled
from ...client.pool import UpgradePool, switched_connection
from ...client.urls import http_url
from ...errors import InvalidArgument, connect_timed_out
from .._client_handshake import chosen_subprotocol
from .._handshake import MAX_MESSAGE_SIZE, subprotocol_names
from . import compression
from .protocol import Agreed, Handler, MessageProtocol
from .server import HEARTBEAT, MAX_QUEUE, check_handler, check_options

__all__ = ["MessageEndpoint", "MessageFactory"]

_SET_HERE = (b"sec-websocket-protocol", b"sec-websocket-extensions")


@implementer(ITransport)
class _Closable:
    """
    The transport that a :class:`_Client` sees. To end it, as a ``ClientService`` does when it is
    stopped, closes the WebSocket.
    """

    def __init__(self, opened: MessageProtocol) -> None:
        self.opened = opened

    def loseConnection(self) -> None:
        self.opened.send_close(CloseCode.NORMAL_CLOSURE, "")

    def abortConnection(self) -> None:
        self.opened.abort()

    def getPeer(self) -> IAddress:
        return self.opened.transport.getPeer()

    def getHost(self) -> IAddress:
        return self.opened.transport.getHost()

    def write(self, data: bytes) -> None:
        raise InvalidArgument("a WebSocket is sent messages, not bytes")

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"")


class _Client(Protocol):
    """
    What a factory builds, and what connecting results in.

    :ivar stream: the WebSocket, once it is connected.
    """

    transport: _Closable

    def __init__(self, handler: Handler) -> None:
        self.message_handler = handler

    def connectionMade(self) -> None:
        self.stream = self.transport.opened.stream


class _ClientMessageProtocol(MessageProtocol):
    """Owns a client's connection, and tells its :class:`_Client`, or what wraps that, when it ends."""

    def __init__(self, handler: Handler, client: IProtocol) -> None:
        super().__init__(handler)
        self._client: IProtocol | None = client

    def connectionMade(self) -> None:
        super().connectionMade()
        if self._client is not None:
            self._client.makeConnection(_Closable(self))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        client, self._client = self._client, None
        if client is not None:
            client.connectionLost(reason)


if TYPE_CHECKING:
    _Factory = Factory[_Client]
else:
    # Older Twisteds' is not generic.
    _Factory = Factory


class MessageFactory(_Factory):
    """
    What a :class:`MessageEndpoint` connects: each connection calls a handler, as on a server.
    """

    noisy = False

    def __init__(self, handler: Handler) -> None:
        """
        :param handler: called with each :class:`MessageStream`, which is closed when it has finished.
        :raises InvalidArgument: if it cannot be called with a stream.
        """
        check_handler(handler)
        self.handler = handler

    def buildProtocol(self, addr: IAddress | None) -> _Client:
        return _Client(self.handler)


@implementer(IStreamClientEndpoint)
class MessageEndpoint:
    """
    A client endpoint that opens WebSockets. With Twisted's ``ClientService`` it connects again whenever
    the connection is lost::

        service = ClientService(
            MessageEndpoint(reactor, "wss://example.com/feed"), MessageFactory(handler)
        )
        service.startService()
    """

    def __init__(
        self,
        reactor: IReactorTime,
        url: str | bytes,
        headers: Headers | None = None,
        agent: IAgent | None = None,
        timeout: float | None = 30,
        subprotocols: Iterable[str] = (),
        heartbeat: float | None = HEARTBEAT,
        max_message_size: int | None = MAX_MESSAGE_SIZE,
        max_queue: int = MAX_QUEUE,
        compression: bool = False,
    ) -> None:
        """
        :param reactor: the clock; without an ``agent``, it also makes the connections.
        :param url: ``ws`` or ``wss``, or ``http`` or ``https``.
        :param headers: further fields of the handshake.
        :param agent: any agent over an :class:`~upgrade_switch.UpgradePool`. None: a plain ``Agent``.
        :param timeout: how many seconds connecting may take; None: no limit.
        :param subprotocols: those that are offered, in this order.
        :param heartbeat: as for :func:`byte_stream`.
        :param max_message_size: as for :func:`message_stream`.
        :param max_queue: as for :func:`message_stream`.
        :param compression: whether compression is offered (RFC 7692).
        :raises ValueError: if it is no such URL, or ``headers`` has a field that is set here.
        :raises InvalidArgument: if a subprotocol is not a token, or a number is neither None nor above
            0.
        """
        self._url = http_url(url, websocket=True)
        self._headers = Headers() if headers is None else headers.copy()
        for name in _SET_HERE:
            if self._headers.hasHeader(name):
                raise ValueError(f"the endpoint sets {name.decode()}")
        self._options = check_options(heartbeat, max_message_size, max_queue)
        self._subprotocols = subprotocol_names(subprotocols)
        self._compression = compression
        self._reactor = reactor
        self._agent = agent
        self._timeout = timeout

    def __repr__(self) -> str:
        # Without the query, which may hold a secret.
        return f"<MessageEndpoint {self._url.decode('ascii').partition('?')[0]}>"

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Open a WebSocket.

        :param protocolFactory: a :class:`MessageFactory`.
        :return: fires with a protocol that has the stream as its attribute ``stream``, and whose
            transport's ``loseConnection`` closes it with 1000 (so does a ``ClientService`` that is
            stopped); its handler is called in the reactor's next turn. Fails with
            :class:`~upgrade_switch.NotSwitched`, which has the response, if the server refuses; with
            :class:`~upgrade_switch.errors.InvalidResponse` if its answer breaks the rules; with
            ``twisted.internet.error.TimeoutError``; or with what the agent fails with. Cancelling it
            closes the connection. Fails with :class:`~upgrade_switch.errors.InvalidArgument` if it is
            another factory.
        """
        opening: Deferred[IProtocol] = Deferred.fromCoroutine(self._open(protocolFactory))
        if self._timeout is not None:
            opening.addTimeout(self._timeout, self._reactor, connect_timed_out("no WebSocket"))
        return opening.addErrback(unwrap_cancelled)

    async def _open(self, factory: IProtocolFactory) -> IProtocol:
        agent: IAgent = self._agent or Agent(self._reactor, pool=UpgradePool(self._reactor))
        key = b64encode(os.urandom(16))
        response = await agent.request(b"GET", self._url, self._fields(key))
        connection = switched_connection(response)
        try:
            agreed = self._agreed(response, key)
            client = factory.buildProtocol(connection.peer)
            if client is None:
                raise NoProtocol
            # ClientService wraps it, and passes attributes on.
            handler = getattr(client, "message_handler", None)
            if handler is None:
                raise InvalidArgument(f"a MessageEndpoint connects a MessageFactory, not {factory!r}")
        except BaseException:
            connection.abort()
            raise
        opened = _ClientMessageProtocol(handler, client)
        opened.agree(agreed, self._options, self._reactor)
        connection.install(opened)
        return client

    def _fields(self, key: bytes) -> Headers:
        """The fields of a handshake (RFC 6455 §4.1)."""
        fields = self._headers.copy()
        fields.setRawHeaders(b"upgrade", [b"websocket"])
        fields.setRawHeaders(b"sec-websocket-version", [b"13"])
        fields.setRawHeaders(b"sec-websocket-key", [key])
        if self._subprotocols:
            names = ", ".join(self._subprotocols).encode("ascii")
            fields.setRawHeaders(b"sec-websocket-protocol", [names])
        if self._compression:
            fields.setRawHeaders(b"sec-websocket-extensions", [compression.offer()])
        return fields

    def _agreed(self, response: IResponse, key: bytes) -> Agreed:
        """
        What a switch has settled (RFC 6455 §4.1).

        :raises InvalidResponse: if it breaks the rules.
        """
        subprotocol = chosen_subprotocol(response, key, self._subprotocols)
        lines = response.headers.getRawHeaders(b"sec-websocket-extensions") or ()
        extensions = compression.chosen(lines, self._compression)
        return Agreed(Side.CLIENT, subprotocol, extensions)
