"""
:class:`Upgrades`: what each token leads to, and which one a request's offer matches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory

from ..errors import InvalidPrefaces, InvalidUpgrades
from ..interfaces import Acceptor, Answer, ISelective, IUpgradeRequest, IUpgradeSite
from ..negotiation import Offer, TokenTable, UpgradeToken
from .pages import service_unavailable

if TYPE_CHECKING:
    from .request import UpgradeRequest

__all__ = [
    "Match",
    "Upgrades",
    "acceptor_of",
    "build",
    "build_or_decline",
    "check_connect",
    "checked_prefaces",
    "hint_at_factory",
    "takes",
]


@dataclass(slots=True)
class Match:
    """
    A token of a request's offer that is known here, or a CONNECT; and what decides about it.

    :ivar token: the token; None for a CONNECT.
    :ivar acceptor: what decides, or has a factory build the target; it may be asynchronous.
    :ivar argument: what the acceptor is told beside the request: the token, or a CONNECT's authority.
    """

    token: UpgradeToken | None
    acceptor: Callable[..., Any]
    argument: UpgradeToken | bytes


class _Entry(NamedTuple):
    """What a token leads to."""

    acceptor: Callable[[Any, UpgradeToken], Any]
    ignores: Callable[[IUpgradeRequest], bool] | None
    """Set if the acceptor is selective."""
    factory: IProtocolFactory | None
    """Set if the acceptor stands for one."""


class Upgrades:
    """
    A mapping from tokens to what they lead to, as ``UpgradeResource`` and ``UpgradeSite`` take it.

    :ivar names: the tokens as they were written, in their order.
    :ivar protocols: the names of their protocols without versions, in lower case.
    :ivar values: what they lead to, as it was given.
    """

    def __init__(self, upgrades: Mapping[str, IProtocolFactory | Acceptor]) -> None:
        """
        :raises InvalidToken: if a key is not a token.
        :raises InvalidUpgrades: if it is not a mapping, if a value is neither a factory nor an
            acceptor, or if two keys are the same token.
        """
        if not isinstance(upgrades, Mapping):
            raise InvalidUpgrades(f"not a mapping from tokens, as {{'echo': factory}} is: {upgrades!r}")
        for key, value in upgrades.items():
            _check_value(key, value)
        self.values: tuple[object, ...] = tuple(upgrades.values())
        self._table = TokenTable({key: _entry(value) for key, value in upgrades.items()})
        self.names = self._table.names
        self.protocols = frozenset(UpgradeToken.parse(name).key[0] for name in self.names)

    def knows(self, token: UpgradeToken) -> bool:
        """Whether a token is known here, or is one that nobody can take (``h2``)."""
        return token.key[0] == "h2" or self._table.find(token) is not None

    def factory_for(self, offer: Offer) -> tuple[UpgradeToken, IProtocolFactory] | None:
        """
        The first token of an offer that is known here, and the factory that it leads to; None if it
        leads to an acceptor, or whether it is ignored depends on the request.
        """
        for token in offer.tokens:
            entry = self._table.find(token)
            if entry is not None:
                is_plain = entry.ignores is None and token.key[0] not in _OF_THE_CONNECTION
                return (token, entry.factory) if is_plain and entry.factory is not None else None
        return None

    def match(self, request: IUpgradeRequest) -> Match | None:
        """The first token of a request's offer that is known here, and not ignored."""
        # Each is asked once, however often a stranger repeats its token.
        ignoring: set[int] = set()
        for token in request.offer.tokens:
            entry = self._table.find(token)
            if entry is None:
                continue
            if token.key[0] in _OF_THE_CONNECTION and _is_out_of_place(request, token):
                continue
            ignores = entry.ignores
            if ignores is None or (id(entry) not in ignoring and not ignores(request)):
                return Match(token, entry.acceptor, token)
            ignoring.add(id(entry))
        return None


def _entry(value: Any) -> _Entry:
    return _Entry(
        acceptor_of(value),
        value.ignores if ISelective.providedBy(value) else None,
        value if IProtocolFactory.providedBy(value) else None,
    )


def acceptor_of(value: IProtocolFactory | Acceptor) -> Acceptor:
    """The acceptor that a value of a mapping of upgrades is, or that a factory there stands for."""
    if not IProtocolFactory.providedBy(value):
        return value
    return partial(build_or_decline, value)


def build_or_decline(
    factory: IProtocolFactory, request: UpgradeRequest, token: UpgradeToken | None = None
) -> Answer:
    """
    :func:`build` for a request's client, whatever the token is: an acceptor, for a factory.
    """
    return build(factory, request.site, request.getClientAddress())


def build(factory: IProtocolFactory, site: IUpgradeSite, address: IAddress) -> Answer:
    """
    Have a factory build a protocol for a client.

    :return: the protocol; or a 503 if the factory takes no connection now.
    """
    site.start_factory(factory)
    target = factory.buildProtocol(address)
    return service_unavailable("No connection is taken now.") if target is None else target


# Tokens that name what the connection speaks, whatever the resource.
_OF_THE_CONNECTION = frozenset(["h2", "h2c", "tls"])


def _is_out_of_place(request: IUpgradeRequest, token: UpgradeToken) -> bool:
    """
    Whether a token makes no sense on this connection: ``h2`` never does (it is ALPN's, RFC 9113
    §3.1), ``h2c`` not over TLS (there it is ``h2``), ``TLS`` not where the client has it already, and
    none of them on a stream.
    """
    name = token.key[0]
    if name == "h2" or request.clientproto == b"HTTP/2":
        return True
    return bool(request.channel.isSecure() if name == "h2c" else request.isSecure())


def check_connect(value: object) -> None:
    """
    :raises InvalidUpgrades: if a value is not an acceptor of CONNECTs.
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
    if _makes_acceptors(acceptor):
        name = acceptor.__name__
        raise InvalidUpgrades(f"{key!r}: {name} makes acceptors, but is not one: give {name}(...)")
    if not takes(acceptor, 2):
        raise InvalidUpgrades(f"{key!r}: {acceptor!r} cannot be called with {arguments}")


def takes(function: Callable[..., object], count: int) -> bool:
    """Whether a function can be called with so many arguments, as far as it tells."""
    try:
        wanted = signature(function)
    except (TypeError, ValueError):
        # A builtin.
        return True
    try:
        wanted.bind(*[None] * count)
    except TypeError:
        return False
    return True


# Where the functions live that make acceptors: this package's name, and the room.
_PROTOCOLS = f"{__name__.partition('.')[0]}.protocols."


def _makes_acceptors(acceptor: object) -> bool:
    """Whether something is one of the functions of ``upgrade_switch.protocols``."""
    if not isinstance(acceptor, FunctionType):
        return False
    # None for a function whose source was executed as a string.
    is_ours = (acceptor.__module__ or "").startswith(_PROTOCOLS)
    return is_ours and acceptor.__qualname__ == acceptor.__name__


def checked_prefaces(prefaces: object) -> dict[bytes, object]:
    if not isinstance(prefaces, Mapping):
        raise InvalidPrefaces(f"not a mapping from bytes, as {{b'SSH-': factory}} is: {prefaces!r}")
    return dict(prefaces)


def hint_at_factory(value: object) -> str:
    """What to give in place of something that is not a factory."""
    if isinstance(value, type) and IProtocol.implementedBy(value):
        return f"; give Factory.forProtocol({value.__name__})"
    if callable(value):
        return (
            "; prefaces take a factory, not an acceptor: "
            "for a tunnel, give TunnelFactory(reactor, endpoint)"
        )
    return ""
