"""
Byte streams in WebSocket's binary messages, as noVNC and other clients in browsers speak them:
:func:`byte_stream` on a server, :class:`WebSocketEndpoint` on a client.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from autobahn.websocket.types import ConnectionRequest
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionDone, ConnectionLost, NoProtocol
from twisted.internet.error import TimeoutError as InternetTimeoutError
from twisted.internet.interfaces import (
    IConsumer,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from twisted.web.resource import IResource
from zope.interface import implementer

from ...client.pool import UpgradePool
from ...interfaces import Acceptor
from ...negotiation import UpgradeToken
from ...server.decision import not_an_answer
from ...server.upgrades import acceptor_of
from .client import connect_websocket, http_url
from .server import SAME_ORIGIN, HandshakeRequest, Refused, websocket

__all__ = ["WebSocketEndpoint", "byte_stream"]

# websockify's, which noVNC asks for.
_SUBPROTOCOL = "binary"

_UNSUPPORTED_DATA = 1003

# RFC 6455 §7.4.1: close codes that are no failure; None and 1005 are none at all.
_ENDS = (None, 1000, 1001, 1005)

# Seconds between saying goodbye and cutting off: what is still to be written wants its time.
_GOODBYE = 60


@implementer(ITransport, IConsumer, IPushProducer)
class FrameTransport:
    """
    The transport of a protocol whose bytes go in binary messages. There is no half-close.
    """

    def __init__(self, websocket: Any) -> None:
        self._websocket = websocket
        self.disconnecting = False
        self.disconnected = False
        self.paused = False
        self._has_producer = False

    def write(self, data: bytes) -> None:
        # As with every transport, what is written after the end goes nowhere.
        if data and self._websocket.state == self._websocket.STATE_OPEN:
            self._websocket.sendMessage(bytes(data), isBinary=True)

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if not self.disconnecting:
            self.disconnecting = True
            if not self._has_producer:
                self._close()

    def _close(self) -> None:
        self._websocket.sendClose(1000)
        # The other side's goodbye is still to be read.
        self._websocket.transport.resumeProducing()

    def abortConnection(self) -> None:
        self.disconnecting = True
        self._websocket.transport.abortConnection()

    def getPeer(self) -> Any:
        return self._websocket.transport.getPeer()

    def getHost(self) -> Any:
        return self._websocket.transport.getHost()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._websocket.registerProducer(producer, streaming)
        self._has_producer = True

    def unregisterProducer(self) -> None:
        self._websocket.unregisterProducer()
        self._has_producer = False
        if self.disconnecting:
            self._close()

    def pauseProducing(self) -> None:
        self.paused = True
        self._websocket.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.paused = False
        self._websocket.go_on()

    def setTcpNoDelay(self, enabled: bool) -> None:
        self._websocket.transport.setTcpNoDelay(enabled)

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self._websocket.transport.setTcpKeepAlive(enabled)

    def stopProducing(self) -> None:
        self.loseConnection()


class _Stream:
    """One side's WebSocket protocol; passes bytes on as they come, not only whole messages."""

    inner: Any = None
    _frames: FrameTransport | None = None
    _refused = False

    def __init__(self) -> None:
        super().__init__()
        # What came in one segment with what the target paused at.
        self._held: list[bytes] = []

    def onOpen(self) -> None:
        self._frames = FrameTransport(self)
        self.inner.makeConnection(self._frames)

    def _is_paused(self: Any) -> bool:
        return self._frames is not None and self._frames.paused

    def go_on(self: Any) -> None:
        """The target reads again: what is here already first."""
        while self._held and not self._is_paused():
            self._give(self._held.pop(0))
        if self._is_paused():
            return
        self._wait_for_room()
        if self._patience is None:
            self.transport.resumeProducing()

    def _give(self, payload: bytes) -> None:
        if self._frames is not None and not self._frames.disconnecting:
            self.inner.dataReceived(payload)

    def onMessageBegin(self: Any, isBinary: bool) -> None:
        if not isBinary:
            self._refused = True
            self.sendCloseFrame(code=_UNSUPPORTED_DATA, reasonUtf8=b"binary messages, please")
            # RFC 6455 §7.1.7: nobody waits for an answer.
            self.transport.loseConnection()

    def onMessageFrameBegin(self, length: int) -> None:
        pass

    def onMessageFrameData(self: Any, payload: bytes) -> None:
        # While the server is going down, too: what the client has sent before it knew is no less.
        if self._refused or not payload:
            return
        if self._held or self._is_paused():
            self._held.append(payload)
        else:
            self._give(payload)

    def onMessageFrameEnd(self) -> None:
        pass

    def onMessageEnd(self) -> None:
        pass

    def onClose(self: Any, wasClean: bool, code: int | None, reason: str | None) -> None:
        frames = self._frames
        if frames is not None:
            while self._held:
                self._give(self._held.pop(0))
            self._frames = None
            frames.disconnecting = frames.disconnected = True
            failed = self.failedByMe or self._refused or code not in _ENDS
            error = ConnectionDone() if wasClean and not failed else ConnectionLost(reason)
            self.inner.connectionLost(Failure(error))


class _ServerStream(_Stream, WebSocketServerProtocol):  # type: ignore[misc]  # autobahn's own bases
    factory: _ServerFactory

    def onConnect(self, request: ConnectionRequest) -> Any:
        assert isinstance(request, HandshakeRequest)
        decided = maybeDeferred(self.factory.acceptor, request.request, UpgradeToken("websocket"))
        return decided.addCallback(self._take, request.protocols)

    def _take(self, result: Any, offered: list[str]) -> str | None:
        if IResource.providedBy(result):
            raise Refused(result)
        if not IProtocol.providedBy(result):
            raise not_an_answer(result)
        self.inner = result
        return _SUBPROTOCOL if _SUBPROTOCOL in offered else None


class _ServerFactory(WebSocketServerFactory):
    protocol: Any = _ServerStream
    noisy = False

    def __init__(self, acceptor: Acceptor | IProtocolFactory) -> None:
        super().__init__()
        self.acceptor = acceptor_of(acceptor)
        self.setProtocolOptions(failByDrop=False, closeHandshakeTimeout=_GOODBYE)


def byte_stream(
    acceptor: Acceptor | IProtocolFactory, allowed_origins: Iterable[str] = SAME_ORIGIN
) -> Acceptor:
    """
    An acceptor for the token ``websocket`` whose target gets and sends a stream of bytes, in binary
    messages: any Twisted protocol, or a tunnel, for clients in browsers::

        UpgradeResource({"websocket": byte_stream(tunnel(endpoint))})

    The subprotocol ``binary`` is answered when it is asked for.

    :param acceptor: what decides, as for ``UpgradeResource``: asked when the handshake has been found
        good. Its target's transport has no half-close; ``loseConnection`` is close code 1000.
    :param allowed_origins: as for :func:`websocket`; without it the site's own pages alone, since what
        is behind a tunnel seldom asks who is there.
    :raises InvalidUpgrades: for what is no origin.
    """
    return websocket(_ServerFactory(acceptor), allowed_origins)


class _ClientStream(_Stream, WebSocketClientProtocol):  # type: ignore[misc]  # autobahn's own bases
    factory: _ClientFactory
    transport: Any
    failure: Failure | None = None

    def onOpen(self) -> None:
        factory = self.factory.inner
        factory.doStart()
        try:
            self.inner = factory.buildProtocol(self.transport.getPeer())
        except Exception:
            self.failure = Failure()
        if self.inner is None:
            self.sendClose(1000)
        else:
            super().onOpen()

    def onCloseFrame(self, code: Any, reasonRaw: Any) -> bool | None:
        result: bool | None = super().onCloseFrame(code, reasonRaw)
        # RFC 6455 §7.1.1: the server is to close first, but nobody need wait for that.
        self.transport.loseConnection()
        return result

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        super().onClose(wasClean, code, reason)
        self.factory.inner.doStop()


class _ClientFactory(WebSocketClientFactory):
    protocol: Any = _ClientStream
    noisy = False

    def __init__(self, reactor: Any, inner: IProtocolFactory) -> None:
        super().__init__(reactor=reactor, protocols=[_SUBPROTOCOL])
        self.inner = inner
        self.setProtocolOptions(failByDrop=False, closeHandshakeTimeout=_GOODBYE)


@implementer(IStreamClientEndpoint)
class WebSocketEndpoint:
    """
    A client endpoint whose connections are streams of bytes in WebSocket's binary messages: what
    noVNC's servers (websockify), and :func:`byte_stream`, speak.
    """

    def __init__(
        self,
        reactor: Any,
        url: str | bytes,
        headers: Headers | None = None,
        agent: IAgent | None = None,
        timeout: float | None = 30,
    ) -> None:
        """
        :param reactor: provides ``IReactorTime``; without an ``agent``, what connects.
        :param url: ``ws`` or ``wss``, or ``http`` or ``https``.
        :param headers: further fields of the handshake.
        :param agent: any agent over an :class:`~upgrade_switch.UpgradePool`. Without one: a plain one.
        :param timeout: how many seconds it may take to connect; None: any time.
        :raises ValueError: for what is no such URL.
        """
        http_url(url)
        self._reactor = reactor
        self._url = url
        self._headers = headers
        self._agent = agent
        self._timeout = timeout

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Connect.

        :param protocolFactory: builds the protocol of the stream, when the WebSocket is open.
        :return: fires with the factory's protocol; fails as :func:`connect_websocket` does, or with
            ``TimeoutError``.
        """
        pool = UpgradePool(self._reactor)
        factory = _ClientFactory(self._reactor, protocolFactory)
        opened = connect_websocket(pool, self._url, factory, self._headers, self._agent)
        if self._timeout is not None:
            opened.addTimeout(self._timeout, self._reactor, _timed_out)
        return opened.addCallback(_inner)


def _inner(stream: _ClientStream) -> IProtocol | Failure:
    if stream.failure is not None:
        return stream.failure
    if stream.inner is None:
        # What Twisted's own endpoints make of it.
        raise NoProtocol
    inner: IProtocol = stream.inner
    return inner


def _timed_out(reason: object, timeout: float) -> NoReturn:
    raise InternetTimeoutError(f"no WebSocket within {timeout:g} seconds")
