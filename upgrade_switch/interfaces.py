"""
What users, and the rooms of this package, provide to one another.

Users implement :class:`IDrainable`, :class:`IDrainsLate`, :class:`ILayered`, :class:`ITakesUpgrades`,
:class:`ISelective`, :class:`IPrefaced`, :class:`IStreamsContent` and :class:`ISwitchObserver`, or write
an :data:`Acceptor`. The package provides :class:`ISwitchedConnection`, :class:`IUpgradeRequest`,
:class:`IUpgradeSite`, :class:`IBackEnd` and :class:`IDetachable`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, MutableSet, Sequence
from typing import IO, Any, NamedTuple, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    ITransport,
)
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from zope.interface import Attribute, Interface

from .negotiation import Declined, Offer, UpgradeToken

__all__ = [
    "Acceptor",
    "Answer",
    "CarriedRequest",
    "ConnectAcceptor",
    "Declined",
    "IBackEnd",
    "ICarriedTransport",
    "ICountsBytes",
    "IDetachable",
    "IDrainable",
    "IDrainsLate",
    "ILayered",
    "IMultiplexedTransport",
    "IPrefaced",
    "ISelective",
    "IStreamTransport",
    "IStreamsContent",
    "ISwitchObserver",
    "ISwitchedConnection",
    "ITakesUpgrades",
    "IUpgradeRequest",
    "IUpgradeSite",
    "SwitchHead",
]

Answer: TypeAlias = IProtocol | IResource
"""What an acceptor results in: the protocol to switch to, or the resource that answers in HTTP."""

# Any: of whatever class the site's requestFactory is, for which an acceptor may well ask.
Acceptor: TypeAlias = Callable[
    [Any, UpgradeToken], Answer | Deferred[Answer] | Coroutine[object, Any, Answer]
]
"""Decides about one offered token: called with the request and the token."""

ConnectAcceptor: TypeAlias = Callable[
    [Any, bytes], Answer | Deferred[Answer] | Coroutine[object, Any, Answer]
]
"""Decides about a CONNECT: called with the request and its authority, such as ``b"host:22"``."""


# What users implement.


class IDrainable(Interface):
    """A target that can say goodbye in its own protocol when the server goes down."""

    def drain() -> None:
        """
        Say goodbye and close the connection: the server is going down. What is left is aborted when
        the time that ``UpgradeSite.drain`` was given is over.
        """


class IDrainsLate(IDrainable):
    """
    A target that can use the time that is left when the server goes down, such as a tunnel, whose
    transfer may end by itself. Its ``drain`` is called late: ``min(1, timeout / 2)`` seconds before
    what is left is aborted, where ``timeout`` is what ``UpgradeSite.drain`` was given.
    """

    def drain_announced() -> None:
        """The server is about to go down: called at once, when others are told to ``drain``."""


class ILayered(IProtocol):
    """
    A target that carries further protocols: the 101 names all of them, in ascending order (RFC 9110
    §7.8; RFC 2817 §3.3 has ``TLS/1.0, HTTP/1.1``).
    """

    layers: tuple[str, ...] = Attribute("The tokens above the one that is switched to.")


class ITakesUpgrades(Interface):
    """A resource that switches by itself; a site's own upgrades leave it what it takes."""

    def takes(request: IUpgradeRequest) -> bool:
        """Whether it switches to one of the tokens in ``request.offer``."""


class IStreamsContent(Interface):
    """
    A resource that takes the content of requests as it arrives. This is a marker::

        @implementer(IStreamsContent)
        class Uploads(Resource):
            isLeaf = True

            def render_PUT(self, request):
                request.stream_content(consumer).addCallbacks(self.stored, self.failed, [request])
                return NOT_DONE_YET

    Such a resource is rendered when the head of a request has been read. ``request.stream_content``
    gives it the content; ``request.content`` is empty, and ``request.args`` has no arguments of a form.
    If a client waits for a 100 (Continue), ``request.expects_continue`` is true, and the resource sends
    it with ``request.send_informational(100)``. To switch, it first reads the content to its end.

    If the request is finished before its content, up to 64 KiB are read and dropped, and then the next
    request on the connection is answered; if there is more, or if the client still waits for its 100,
    the connection is closed behind the answer.

    What the site's lookup returns decides, once for each request, so wrappers have to provide the
    interface, too. A ``DeferredResource`` (``twisted.web.guard`` has one for each login) counts as what
    it stands for, if its Deferred has fired by then. Any other resource gets the whole content in
    ``request.content``. So does this one on a site that is not an ``UpgradeSite``;
    ``request.stream_content`` then takes it from there.
    """


class ISelective(Interface):
    """An acceptor that ignores some requests: for those, its token counts as unknown."""

    def ignores(request: IUpgradeRequest) -> bool:
        """Whether this request's offer is to be ignored (RFC 9110 §7.8: never an error)."""


class IPrefaced(Interface):
    """An upgrade that a client may also begin a connection with, without asking first."""

    preface: bytes | None = Attribute("The first bytes of such a connection; None: there are none.")

    def factory_for(site: IUpgradeSite) -> IProtocolFactory:
        """
        What builds the protocols of connections to a site that begin with the preface. Only
        connections without TLS are looked at: inside it, ALPN names the protocol.
        """


class ICountsBytes(Interface):
    """A target that counts what goes through it."""

    bytes_in: int = Attribute("How many bytes it has been given.")
    bytes_out: int = Attribute("How many bytes it has sent.")


class ISwitchObserver(Interface):
    """
    Is told what happens to the upgrades of an ``UpgradeSite(observers=[...])``, while it happens: a
    slow observer delays the connection. What an observer raises is logged, and has no other effect.
    """

    def switched(connection: ISwitchedConnection) -> None:
        """
        A connection is given to its target. A connection that switches again (a WebSocket inside
        upgraded TLS) is reported again, and ends once.

        :param connection: the entry in ``site.switched``, with token, path, peer and target.
        """

    def ended(connection: ISwitchedConnection, seconds: float, reason: Failure) -> None:
        """
        A switched connection is over, and its target has been told.

        :param connection: the same as in :meth:`switched`.
        :param seconds: how long it was switched.
        :param reason: what the transport says.
        """

    def declined(request: IUpgradeRequest, token: UpgradeToken | None, why: Declined) -> None:
        """
        A request for an upgrade is answered in HTTP, or not at all.

        :param request: the request; its ``offer`` is what the client asked for.
        :param token: the offered token that was decided about; None if none is known.
        :param why: the kind of reason. ``request.code`` is the answer's, if there is one already.
        """


# What the package provides, and what it asks of Twisted.


class IStreamTransport(ITransport, IConsumer, IPushProducer):
    """What a transport must be able to do: Twisted's TCP, UNIX and TLS transports all can."""

    def abortConnection() -> None:
        """End the connection at once; what waits to be sent is lost."""


class ICarriedTransport(IStreamTransport):
    """A transport whose bytes travel in the messages of another protocol, such as WebSocket's."""

    carrier: IStreamTransport = Attribute("The transport beneath that protocol.")


class IMultiplexedTransport(IStreamTransport):
    """
    One of several streams that share a connection, such as HTTP/2's (RFC 9113 §5). Each direction ends
    by itself, whatever is beneath.
    """

    shared: IStreamTransport = Attribute("The transport of the connection.")
    unsent: int = Attribute("How many bytes of this stream wait to be sent.")
    is_full: bool = Attribute("Whether more bytes wait than the stream's buffer is for.")
    end_came: bool = Attribute("Whether the other end sends no more, though not all of it may be read.")

    def loseWriteConnection() -> None:
        """End this side's direction, when everything has been sent."""


class ISwitchedConnection(Interface):
    """A connection that has left HTTP."""

    token: UpgradeToken | None = Attribute("What it has switched to; None if it was no upgrade.")
    path: bytes = Attribute("The path of the request that switched it; the authority of a CONNECT.")
    since: float = Attribute("When it switched, in seconds on the reactor's clock.")
    target: IProtocol | None = Attribute("The protocol that owns it; None until one does.")
    peer: IAddress = Attribute("The address of the other end, as the transport has it.")
    user: str | None = Attribute("Who the client is: a name that was checked; None if unknown.")
    bytes_in: int | None = Attribute("How many bytes the target got; None: not counted.")
    bytes_out: int | None = Attribute("How many bytes the target sent; None: not counted.")

    def abort() -> None:
        """End the connection at once; what waits to be sent is lost. Harmless when it is over."""


class IBackEnd(Interface):
    """A server behind a reverse proxy, and its state; ``observe.Status.show_back_ends`` shows it."""

    url: str = Attribute("Where it is; without a user and a password.")
    state: str = Attribute('"up"; "ejected" after failures, for a while; "down" says a health check.')
    active: int = Attribute("How many requests and switched connections it has now.")
    requests: int = Attribute("How many requests it has had.")
    upgrades: int = Attribute("How many connections have switched.")
    errors: int = Attribute("How many requests got no answer, or only a part of one.")
    latency: float | None = Attribute("Milliseconds to the head of an answer, on average, if known.")


class CarriedRequest(NamedTuple):
    """What a request asks for, to be answered in the protocol that its connection switches to."""

    method: bytes
    target: bytes
    """The request target, as it was sent."""
    fields: list[tuple[bytes, bytes]]
    content: IO[bytes]
    """The content, positioned at its end; whoever has this closes it."""


class SwitchHead(NamedTuple):
    """The head of the response that ends HTTP: a 101, or a 2xx (CONNECT, ``take_over``)."""

    code: int
    phrase: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    """Names, in their canonical spelling, and values."""


class IDetachable(Interface):
    """
    Something that can leave HTTP on a live connection: an HTTP/1.1 channel, or whatever stands in its
    place for one request.

    Whoever calls :meth:`detach` owns the connection afterwards, and gives it to its target with
    ``takeover.hand_over``.
    """

    transport: IStreamTransport = Attribute("The transport, as whatever speaks HTTP on it sees it.")
    outlives_half_close: bool = Attribute("Whether a half-close behind trailing data is no end.")

    def has_trailing_data() -> bool:
        """Whether bytes have been read already behind the request that is being answered."""

    def slot() -> object:
        """
        Where the transport keeps the protocol that it gives its bytes to (``_twisted.Slot``).

        :raises NotDetachable: if that cannot be found out, or if something else is there.
        """

    def detach(head: SwitchHead | None) -> bytes:
        """
        Write the head, finish the request that it answers, and take everything that is HTTP's off
        the connection: timers, the registered producer, and the request itself.

        :param head: what to answer; None where no request asked (a preface).
        :return: the trailing data: all bytes that were read and are not HTTP's. They belong to the
            target.
        """


class IUpgradeRequest(IRequest):
    """A request that knows what its client offers, and that can switch."""

    offer: Offer = Attribute("All that the client is willing to switch to.")
    has_switched: bool = Attribute("Whether the request was answered with another protocol.")
    site: IUpgradeSite = Attribute("The site that the request came to.")
    channel: Any = Attribute("What the request came through; gone when the request is finished.")
    clientproto: bytes = Attribute("The version of HTTP, such as ``HTTP/1.1``.")
    code: int = Attribute("The status code of the answer, as far as it is known.")
    code_message: bytes = Attribute("The reason phrase of the answer.")
    startedWriting: int = Attribute("Whether the head of the answer has been written.")
    decline_detail: str = Attribute("Why an upgrade was declined, for people; empty if it was not.")
    authenticated_user: str | None = Attribute("Who the client is: a name that was checked.")
    expects_continue: bool = Attribute("Whether the client waits for a 100 (Continue).")
    has_unread_content: bool = Attribute("Whether some of a streamed content is still unread.")

    def take_over(target: IProtocol, code: int = 200, phrase: bytes = b"OK") -> ISwitchedConnection:
        """Answer with a head, and give the connection to another protocol, without an upgrade."""

    def stream_content(consumer: IConsumer) -> Deferred[None]:
        """
        Give the content to a consumer, as fast as that takes it (see :class:`IStreamsContent`).

        :return: fires behind the last byte; fails if not all of it comes.
        """

    def send_informational(
        code: int, phrase: bytes = b"", fields: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send an interim response, such as 100 (Continue), where that is possible."""

    def notifyFinish() -> Deferred[None]:
        """Fires when the request is finished; fails if the connection ends before that."""


class IUpgradeSite(Interface):
    """A site whose connections can switch."""

    reactor: IReactorTime = Attribute("The clock of the site's time limits.")
    observers: Sequence[ISwitchObserver] = Attribute("Who is told of what happens to upgrades.")
    accept_timeout: float | None = Attribute("How many seconds an acceptor may take.")
    head_timeout: float | None = Attribute("How many seconds a request's head may take to arrive.")
    timeOut: float | None = Attribute("How many seconds a connection may be idle between requests.")
    idle_timers: Any = Attribute("Its connections' time-outs (``server.idle``).")
    requestFactory: Callable[..., Any] = Attribute("What makes the requests of its connections.")
    switched: Any = Attribute("The connections that are switched (``server.switched``).")
    takes_http2_connect: bool = Attribute("Whether streams of HTTP/2 may switch (RFC 8441).")
    http2_connections: MutableSet[IDrainable] = Attribute("The HTTP/2 connections that are open.")
    deciding: MutableSet[object] = Attribute("The decisions that acceptors are still at work on.")

    def start_factory(factory: IProtocolFactory) -> None:
        """Call a factory's ``doStart`` before its first use; its ``doStop`` comes with the site's."""

    def buildProtocol(addr: IAddress) -> IProtocol | None:
        """Build what speaks HTTP on a connection."""

    def getResourceFor(request: object) -> IResource:
        """The resource that a request addresses."""

    def resource_at(path: bytes) -> tuple[IResource, int] | None:
        """The resource at a path, and how many segments lead there; None if a request has a say."""

    def site_upgrade_for(request: IUpgradeRequest) -> IResource | None:
        """What answers a request that offers one of the site's own tokens; None: the tree does."""

    def match(request: IUpgradeRequest) -> Any:
        """The first offered token that is the site's own (``server.upgrades.Match``)."""

    def offers(token: str) -> bool:
        """Whether one of the site's own upgrades is to a token."""

    def answer_to_connect(request: IUpgradeRequest) -> IResource:
        """What answers a CONNECT, which the resource tree does not."""

    def http2_connection() -> IProtocol:
        """What speaks HTTP/2 on a connection (``server.http2``)."""

    def connected(transport: object) -> Any:
        """
        A connection to the site has begun, or goes on in HTTP behind an upgrade. The result is what it
        may begin with in place of a request; None if there is nothing.
        """

    def target_of(factory: IProtocolFactory, transport: IStreamTransport) -> IProtocol | None:
        """The protocol for a connection that begins with a preface; None if it gets none."""

    def target_behind_end(factory: IProtocolFactory, transport: IStreamTransport) -> IProtocol | None:
        """The same for a connection that is known to have ended."""
