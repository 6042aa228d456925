"""
Deciding about an upgrade: what a token leads to, an acceptor at work, and what becomes of its result.

An acceptor is what decides about one offered token: it results in a protocol to switch to, or in a
resource that is the answer in HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from inspect import signature
from types import CoroutineType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from zope.interface import Interface

from .errors import ClientGone, Draining, InvalidUpgrades, TooManySwitched, UpgradeError
from .events import Declined, tell
from .negotiation import TokenTable, UpgradeToken
from .pages import service_unavailable
from .request import UpgradeRequest

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from .site import UpgradeSite

__all__ = [
    "Acceptor",
    "Chosen",
    "ConnectAcceptor",
    "Decision",
    "ISelective",
    "Upgrades",
    "check_connect",
    "decide",
]

_log = Logger()

Answer: TypeAlias = IProtocol | IResource
Acceptor: TypeAlias = Callable[
    [UpgradeRequest, UpgradeToken], Answer | Deferred[Answer] | Coroutine[Any, Any, Answer]
]
ConnectAcceptor: TypeAlias = Callable[
    [UpgradeRequest, bytes], Answer | Deferred[Answer] | Coroutine[Any, Any, Answer]
]


class ISelective(Interface):
    """An acceptor that some requests are none for: to those, its token is unknown here."""

    def ignores(request: UpgradeRequest) -> bool:  # noqa: N805 - interfaces have no self
        """Whether this request's offer is to be ignored (RFC 9110 §7.8: never an error)."""


class Chosen(NamedTuple):
    """A token of a request's offer that is known here, and what it leads to; no token for CONNECT."""

    token: UpgradeToken | None
    value: Any
    is_factory: bool


class Upgrades:
    """
    A mapping from tokens to what they lead to, as ``UpgradeResource`` and ``UpgradeSite`` take it.

    :ivar names: the tokens as they were written, in their order.
    """

    def __init__(self, upgrades: Mapping[str, IProtocolFactory | Acceptor]) -> None:
        """
        :raises InvalidToken: for a key that is no token.
        :raises InvalidUpgrades: for what is no mapping, a value that is neither, or two keys that are
            the same token.
        """
        if not isinstance(upgrades, Mapping):
            raise InvalidUpgrades(f"not a mapping from tokens, as {{'echo': factory}} is: {upgrades!r}")
        for key, value in upgrades.items():
            _check_value(key, value)
        self.values: tuple[Any, ...] = tuple(upgrades.values())
        self._table = TokenTable({key: _leads_to(value) for key, value in upgrades.items()})
        self.names = self._table.names

    def knows(self, token: UpgradeToken) -> bool:
        """Whether a token is known here, or is none for anybody."""
        return token.key[0] == "h2" or next(self._table.known([token]), None) is not None

    def choose(self, request: UpgradeRequest) -> Chosen | None:
        """The first token of a request's offer that is known here, and not ignored."""
        # Asked once, however often a stranger repeats its token.
        ignoring: set[int] = set()
        for token, (value, is_factory, is_selective) in self._table.known(request.offer):
            if token.key[0] in _OF_THE_CONNECTION and _is_out_of_place(request, token):
                continue
            if not is_selective:
                return Chosen(token, value, is_factory)
            if id(value) not in ignoring and not value.ignores(request):
                return Chosen(token, value, is_factory)
            ignoring.add(id(value))
        return None


def _leads_to(value: Any) -> tuple[Any, bool, bool]:
    return value, IProtocolFactory.providedBy(value), ISelective.providedBy(value)


# Tokens that name what the connection speaks, whatever the resource.
_OF_THE_CONNECTION = frozenset(["h2", "h2c", "tls"])


def _is_out_of_place(request: UpgradeRequest, token: UpgradeToken) -> bool:
    """
    Whether a token makes no sense on this connection: ``h2`` never does (it is ALPN's, RFC 9113
    §3.1), ``h2c`` not over TLS (there it is ``h2``), ``TLS`` not where the client has it already.
    """
    name = token.key[0]
    if name == "h2":
        return True
    return bool(request.channel.isSecure() if name == "h2c" else request.isSecure())


def decide(request: UpgradeRequest, chosen: Chosen) -> Any:
    """
    Have it decided what becomes of a request.

    :return: what ``render`` returns.
    """
    token, value, is_factory = chosen
    # Here, since an acceptor may finish the request, which then knows no site any more.
    site: UpgradeSite = request.channel.site
    if site.draining or not site.switched.has_room_for(request.channel.transport):
        tell(site.observers, "declined", request, token, _WITHOUT_ROOM[site.draining])
        return _no_room().render(request)
    try:
        result = _build(value, request) if is_factory else _ask(value, request, token)
    except Exception:
        # Not kept in a variable: its traceback would keep this frame, and the frame the request.
        _fail(request, Failure())
        tell(site.observers, "declined", request, token, Declined.FAILED)
        return NOT_DONE_YET
    if isinstance(result, Deferred):
        Decision(site, request, token, result)
    else:
        why = _settle(request, token, result)
        if why is not None:
            tell(site.observers, "declined", request, token, why)
    return NOT_DONE_YET


def check_connect(value: object) -> None:
    """
    :raises InvalidUpgrades: for what is no acceptor of CONNECTs.
    """
    if IProtocolFactory.providedBy(value) or isinstance(value, type) or not callable(value):
        raise InvalidUpgrades(f"connect is a callable (request, authority), not {value!r}")
    _check_call("connect", value, "(request, authority)")


def _check_value(key: object, value: object) -> None:
    """Refuse what an acceptor or factory is often mistaken for, when it can still be told."""
    if IProtocolFactory.providedBy(value):
        return
    if isinstance(value, type) and IProtocolFactory.implementedBy(value):
        raise InvalidUpgrades(f"{key!r}: {value.__name__} is a class; give an instance of it")
    if isinstance(value, type):
        raise InvalidUpgrades(
            f"{key!r}: {value.__name__} is a class; give Factory.forProtocol({value.__name__}), "
            "an instance of the factory, or a function"
        )
    if IProtocol.providedBy(value) or not callable(value):
        raise InvalidUpgrades(
            f"{key!r}: neither an IProtocolFactory nor a callable (request, token): {value!r}"
        )
    _check_call(key, value, "(request, token)")


def _check_call(key: object, acceptor: Any, arguments: str) -> None:
    """Refuse what cannot be called as an acceptor is, and what only makes acceptors (``h2c``)."""
    name = getattr(acceptor, "__name__", "").rpartition(".")[2]
    if isinstance(acceptor, ModuleType) or _is_maker(acceptor):
        raise InvalidUpgrades(f"{key!r}: {name} makes acceptors, and is none: give {name}(...)")
    try:
        wanted = signature(acceptor)
    except (TypeError, ValueError):
        # A builtin that does not tell.
        return
    try:
        wanted.bind(None, None)
    except TypeError:
        raise InvalidUpgrades(f"{key!r}: {acceptor!r} is not to be called with {arguments}") from None


def _is_maker(acceptor: object) -> bool:
    """Whether something is one of the functions of ``upgrade_switch.protocols``."""
    if not isinstance(acceptor, FunctionType):
        return False
    # None, where some text was executed.
    is_ours = (acceptor.__module__ or "").startswith(f"{__package__}.protocols.")
    return is_ours and acceptor.__qualname__ == acceptor.__name__


def _build(factory: Any, request: UpgradeRequest) -> Any:
    """What a factory makes of a request."""
    request.channel.site.start_factory(factory)
    target = factory.buildProtocol(request.getClientAddress())
    return service_unavailable("No connection is taken now.") if target is None else target


def _ask(acceptor: Any, request: UpgradeRequest, token: UpgradeToken | None) -> Any:
    """What an acceptor makes of a request; for CONNECT, its authority is in the token's place."""
    result = acceptor(request, request.uri if token is None else token)
    return Deferred.fromCoroutine(result) if isinstance(result, CoroutineType) else result


def _settle(request: UpgradeRequest, token: UpgradeToken | None, result: Any) -> Declined | None:
    """
    Do what has been decided.

    :return: why the connection has not switched; None where it has.
    """
    if IProtocol.providedBy(result):
        try:
            if token is None:
                request.accept_connect(result)
            else:
                request.switch_to(token, result)
        except (TooManySwitched, Draining, ClientGone) as refused:
            why = _REFUSED[type(refused)]
            _forget_fields(request)
            _render(request, _no_room())
            return why
        except Exception:
            _fail(request, Failure())
            return Declined.FAILED
        return None
    if IResource.providedBy(result):
        _render(request, result)
        return Declined.ANSWERED
    if not isinstance(result, Failure):
        wrong = UpgradeError(f"an acceptor results in an IProtocol or IResource, not {result!r}")
        result = Failure(wrong)
    _fail(request, result)
    return Declined.FAILED


_WITHOUT_ROOM = (Declined.FULL, Declined.DRAINING)
_REFUSED: dict[type[Exception], Declined] = {
    TooManySwitched: Declined.FULL,
    Draining: Declined.DRAINING,
    ClientGone: Declined.LEFT,
}


def _forget_fields(request: UpgradeRequest) -> None:
    """Take off what has been set for the 101: it is not about this answer."""
    for name, _ in list(request.responseHeaders.getAllRawHeaders()):
        if name not in (b"Server", b"Date", b"Connection"):
            request.responseHeaders.removeHeader(name)
    request.cookies = []


def _no_room() -> IResource:
    return service_unavailable("No more connections are taken now.")


def _render(request: UpgradeRequest, resource: IResource) -> None:
    """Answer with a resource, outside of ``Request.process``, which would see to what it raises."""
    try:
        request.render(resource)
    except Exception:
        _fail(request, Failure())


def _fail(request: UpgradeRequest, reason: Failure) -> None:
    """500, logged; a response that has been started cannot become one, and is cut off."""
    if not request.startedWriting:
        request.processingFailed(reason)
        return
    _log.failure("an acceptor failed after it had answered by itself", failure=reason)
    if not request.finished:
        request.loseConnection()


class Decision:
    """
    One acceptor at work on one request.

    It ends exactly once: in the acceptor's result, at the site's ``accept_timeout``, when the site
    drains, or when the client leaves. What the acceptor results in after that is dropped.
    """

    def __init__(
        self,
        site: UpgradeSite,
        request: UpgradeRequest,
        token: UpgradeToken | None,
        deferred: Deferred[Any],
    ) -> None:
        self._request: UpgradeRequest | None = request
        self._token = token
        self._deferred: Deferred[Any] | None = deferred
        self._site = site
        self._site.deciding.add(self)
        self._timeout: IDelayedCall | None = None
        if self._site.accept_timeout is not None:
            self._timeout = self._site.reactor.callLater(
                self._site.accept_timeout, self.decline, "The decision took too long.", Declined.TIMEOUT
            )
        request.notifyFinish().addErrback(self._client_left)
        deferred.addBoth(self._decided)

    def _client_left(self, reason: Failure) -> None:
        request = self._end()
        if request is not None:
            self._tell(request, Declined.LEFT)

    def decline(self, detail: str, why: Declined) -> None:
        """Decide in the acceptor's place: 503, and the acceptor is cancelled."""
        request = self._end()
        if request is not None:
            _render(request, service_unavailable(detail))
            self._tell(request, why)

    def _decided(self, result: Any) -> None:
        self._deferred = None
        request = self._end()
        why = None if request is None else _settle(request, self._token, result)
        if request is not None and why is not None:
            self._tell(request, why)

    def _tell(self, request: UpgradeRequest, why: Declined) -> None:
        tell(self._site.observers, "declined", request, self._token, why)

    def _end(self) -> UpgradeRequest | None:
        """
        Give up what the decision holds, and cancel the acceptor if it is still at work.

        :return: the request, the first time.
        """
        request, self._request = self._request, None
        deferred, self._deferred = self._deferred, None
        timeout, self._timeout = self._timeout, None
        self._site.deciding.discard(self)
        if timeout is not None and timeout.active():
            timeout.cancel()
        if deferred is not None:
            try:
                deferred.cancel()
            except Exception:
                _log.failure("an acceptor's canceller failed")
        return request
