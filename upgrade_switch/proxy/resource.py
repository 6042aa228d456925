"""
:class:`UpgradeProxy`: a reverse proxy as a resource, which lets upgrades through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorCore, IReactorTime
from twisted.web.iweb import IPolicyForHTTPS
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from .. import _twisted
from ..client.pool import UpgradePool
from ..errors import InvalidArgument
from ..interfaces import IBackEnd, IStreamsContent, ITakesUpgrades, IUpgradeRequest
from ..negotiation import NO_OFFER
from ..server.decision import declined, no_room
from ..server.idle import IdleTimers
from ..server.pages import StatusPage
from ..server.request import UpgradeRequest
from .answering import why_declined
from .backends import BackEnds, URLs
from .fields import CHUNKED, Length, Rules, Tokens
from .forwarded import Client, Field, Network, Trusted, hops_left, went_through
from .health import HealthChecks
from .passage import Passage
from .settings import Asked, Settings
from .targets import BadTarget, split_mount

__all__ = ["UpgradeProxy"]

# Twisted's pool keeps two to a host, which is meant for a browser.
_MOST_IDLE = 32
# Servers close a connection that rests after some five seconds or more (Node after five).
_IDLE_SECONDS = 4


@implementer(IStreamsContent, ITakesUpgrades)
class UpgradeProxy(Resource):
    """
    A reverse proxy (RFC 9110 §3.7) in front of one HTTP/1.1 server or several. It may stand anywhere in
    a site's tree: what is below its place goes on, as the client has sent it.

    Requests' contents and answers are passed on as they arrive, in bounded memory. Upgrades to the
    given tokens pass, too: if the back end answers 101, the client gets it, and the two connections are
    spliced (:func:`~upgrade_switch.splice`). Offers of other tokens are left out, and the rest of the
    request goes on. On a site that is not an ``UpgradeSite`` no upgrade passes.

    Trailer fields are dropped. A client that takes nothing of an answer for a minute is cut off.

    :param url: the back end, or several: ``http://host:port/base``, ``https://…``,
        ``unix:/path/to/socket`` or ``unix:/path/to/socket:/base``. Each request goes to the one
        with the fewest requests and upgrades; one that fails gets none for a while.
    :param reactor: connects to them, and is the clock.
    :param tokens: the upgrades that pass, as the keys of an ``UpgradeResource``.
    :param pool: keeps the connections to the back ends; by default, a pool of this proxy alone.
    :param preserve_host: whether the back end gets the client's Host, and not that of its URL.
    :param rewrite_location: whether ``Location`` and ``Content-Location`` are mapped back to what
        the client sees.
    :param rewrite_cookies: whether Path and Domain of cookies are, too.
    :param trusted: addresses and networks of proxies in front, such as ``"10.0.0.0/8"``, and
        ``"unix"``: what they say in ``Forwarded`` and ``X-Forwarded-For`` is passed on. What anybody
        else says in these fields is replaced.
    :param lenient: whether a 101 without ``Connection: upgrade`` switches (Proxmox sends it).
    :param connect_timeout: how many seconds connecting may take, more than 0; then 504.
    :param response_timeout: how many seconds may pass between the end of a request and the head of
        its answer; then 504. 0: any number.
    :param idle_timeout: how many seconds may pass between two parts of an answer's body, or
        without the back end's taking any of the request's; 0: any number. What has switched may be
        idle for longer.
    :param max_body: how many bytes a request's content may have; a longer one gets 413.
    :param sticky: ``"address"`` keeps the clients of an address at one back end; anything else is
        the name of a cookie whose value does.
    :param health: a path such as ``"/health"``, for which each back end is asked every few seconds,
        from the start of the reactor to :meth:`close`; those that do not answer it with 2xx or 3xx get
        no requests. When a site that has used the proxy stops, that ends, too.
    :param strip_authorization: whether ``Authorization`` is not passed on, because it is for this
        site's own login.
    :param policy: which certificates of https back ends are trusted; by default, those that the
        platform trusts.
    :raises InvalidArgument: if one of them is of the wrong kind.
    :raises InvalidToken: if a token breaks the grammar.
    :ivar back_ends: the back ends, and their states (:class:`~upgrade_switch.interfaces.IBackEnd`). May
        be set to other URLs: for those that stay, what is known about them is kept, and requests that
        are under way at the others are not disturbed.
    """

    isLeaf = True
    _own_pool: UpgradePool | None = None

    def __init__(
        self,
        url: URLs,
        reactor: IReactorTime,
        tokens: Iterable[str] = ("websocket",),
        pool: UpgradePool | None = None,
        *,
        preserve_host: bool = True,
        rewrite_location: bool = True,
        rewrite_cookies: bool = False,
        trusted: Iterable[str | Network] = (),
        lenient: bool = False,
        connect_timeout: float = 10,
        response_timeout: float = 60,
        idle_timeout: float = 60,
        max_body: int | None = None,
        sticky: str | None = None,
        health: str | None = None,
        strip_authorization: bool = False,
        policy: IPolicyForHTTPS | None = None,
    ) -> None:
        super().__init__()
        timeouts = (connect_timeout, response_timeout, idle_timeout)
        _check_numbers(timeouts, connect_timeout, max_body)
        if pool is None:
            pool = self._own_pool = UpgradePool(reactor, lenient=lenient)
            pool.maxPersistentPerHost, pool.cachedConnectionTimeout = _MOST_IDLE, _IDLE_SECONDS
        elif lenient and not pool.lenient:
            raise InvalidArgument("lenient=True needs a pool that is lenient, too")
        self._back_ends = BackEnds(url, reactor, sticky, policy)
        self._settings = Settings(
            reactor,
            IdleTimers(reactor),
            pool,
            self._back_ends,
            Rules(Tokens(tokens), Trusted(trusted), preserve_host, strip_authorization, lenient),
            rewrite_location,
            rewrite_cookies,
            *timeouts,
            max_body,
            policy,
        )
        self._health = None if health is None else HealthChecks(self._settings, health)
        # A Clock has no beginning: there, the first request is it.
        if self._health is not None and IReactorCore.providedBy(reactor):
            reactor.callWhenRunning(self._begin_health)

    def _begin_health(self) -> None:
        # It may have been closed before the reactor ran.
        if self._health is not None:
            self._health.begin()

    @property
    def back_ends(self) -> Sequence[IBackEnd]:
        return tuple(self._back_ends)

    @back_ends.setter
    def back_ends(self, urls: URLs) -> None:
        self._back_ends.replace(urls)

    def close(self) -> Deferred[None]:
        """
        End the health checks, and close the connections to the back ends that wait for another request,
        if the pool is this proxy's own. What goes on is not disturbed.

        :return: fires when they are closed.
        """
        health, self._health = self._health, None
        if health is not None:
            health.end()
        return self._own_pool.closeCachedConnections() if self._own_pool else succeed(None)

    def takes(self, request: IUpgradeRequest) -> bool:
        return bool(self._settings.rules.tokens.among(request.offer))

    def render(self, request: Request) -> int | bytes:
        """
        Begin to pass a request on.

        :return: ``NOT_DONE_YET``, or the proxy's own answer.
        """
        asked = self._asked_by(request)
        if isinstance(asked, StatusPage):
            return asked.render(request)
        if isinstance(request, UpgradeRequest):
            if asked.offer.tokens:
                if (refusal := self._refusal_of(request)) is not None:
                    return refusal.render(request)
                # What it sends behind its request is for the new protocol, and so is the end of that.
                request.channel.outlives_half_close = self.takes(request)
            if self._health is not None:
                request.site.start_factory(self._health)
        Passage(self._settings, request, asked).begin()
        return NOT_DONE_YET

    def _refusal_of(self, request: UpgradeRequest) -> StatusPage | None:
        """The answer to an upgrade that cannot be passed on; None if it can be, or left out."""
        if self.takes(request):
            why = why_declined(request)
            if why is not None:
                declined(request, request.offer.tokens[0], why)
                return no_room(why)
        elif request.is_stream:
            # RFC 9220 §3. A back end's page would be taken for a tunnel.
            return StatusPage(501, "Not Implemented", "This protocol is not passed on.")
        return None

    def _asked_by(self, request: Request) -> Asked | StatusPage:
        """What a client has asked for; or the answer to what cannot be passed on."""
        rules = self._settings.rules
        names: Mapping[bytes, Sequence[bytes]] = _twisted.raw_fields(request.requestHeaders)
        mounted = split_mount(request.uri, len(request.prepath or ()))
        if isinstance(mounted, BadTarget):
            return StatusPage(400, "Bad Request", f"This is {mounted.why}.")
        if b"Via" in names and went_through(_lines_of(names, b"Via"), rules.pseudonym):
            return StatusPage(508, "Loop Detected", "This request has been here before.")
        if (
            b"Max-Forwards" in names
            and hops_left(request.method, _lines_of(names, b"Max-Forwards")) == 0
        ):
            return StatusPage(200, "OK", "This request goes no further.")
        length = _length_of(request, names)
        most = self._settings.max_body
        if most is not None and isinstance(length, int) and length > most:
            return StatusPage(413, "Content Too Large", "The content is too large.")
        ours = request if isinstance(request, UpgradeRequest) else None
        if b"Expect" in names and not (ours and ours.expects_continue):
            # Twisted has answered it already.
            names = {name: values for name, values in names.items() if name != b"Expect"}
        offer = ours.offer if ours else NO_OFFER
        # A copy: whoever has rendered this may change the request's own again, or set them back.
        return Asked(_client_of(request, names), mounted, {**names}, offer, length)


def _lines_of(fields: Mapping[bytes, Sequence[bytes]], name: bytes) -> list[Field]:
    return [(name, value) for value in fields[name]]


def _check_numbers(timeouts: Iterable[object], connect_timeout: float, max_body: object) -> None:
    for seconds in timeouts:
        if not isinstance(seconds, int | float) or not seconds >= 0:
            raise InvalidArgument(f"a time-out is a number of seconds, 0 or more, not {seconds!r}")
    if not connect_timeout:
        raise InvalidArgument("connect_timeout is more than 0")
    if max_body is not None and not (isinstance(max_body, int) and max_body >= 0):
        raise InvalidArgument(f"max_body is a number of bytes, or None, not {max_body!r}")


def _client_of(request: Request, fields: Mapping[bytes, Sequence[bytes]]) -> Client:
    host = getattr(request.getClientAddress(), "host", None)
    # As getHeader has it.
    authority = (fields.get(b"Host") or (None,))[-1]
    return Client(host, request.isSecure(), authority, request.clientproto)


def _length_of(request: Request, fields: Mapping[bytes, Sequence[bytes]]) -> Length:
    """How long a request's content is (RFC 9112 §6): what is still to come, or what is there."""
    lengths = fields.get(b"Content-Length")
    if isinstance(request, UpgradeRequest):
        if not request.has_content:
            return int(lengths[0]) if lengths else None
        if request.has_unread_content:
            # Over HTTP/2, there may be content although no field says so.
            return CHUNKED if not lengths or b"Transfer-Encoding" in fields else int(lengths[0])
    return int(lengths[0]) if lengths else _size_of(request) or None


def _size_of(request: Request) -> int:
    content = request.content
    assert content is not None
    here = content.tell()
    size = int(content.seek(0, 2))
    content.seek(here)
    return size
