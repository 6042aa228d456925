"""
:class:`UpgradeEndpoint`: a client endpoint whose connections go through an upgrade.
"""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import (
    IConsumer,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamClientEndpointStringParserWithReactor,
)
from twisted.plugin import IPlugin
from twisted.python.failure import Failure
from twisted.web.client import Agent, RequestGenerationFailed, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from ..connection import SwitchedConnection
from ..errors import InvalidArgument, connect_timed_out
from ..fields import is_token
from ..negotiation import UpgradeToken
from .pool import UpgradePool, switched_connection
from .urls import http_url

__all__ = [
    "UpgradeEndpoint",
    "UpgradeEndpointParser",
    "check_timeout",
    "headers_of",
    "install_built",
    "unwrap_cancelled",
]


def check_timeout(timeout: float | None) -> None:
    """
    :raises ValueError: if it is neither a number of seconds above 0 nor None.
    """
    if timeout is not None and not timeout > 0:
        raise ValueError(f"a timeout is a number of seconds above 0, not {timeout!r}")


def headers_of(given: Headers | Mapping[str, str] | None) -> Headers:
    """
    The further fields of an endpoint's request, as headers of its own.

    :raises InvalidArgument: if they are neither headers nor a mapping from strings to strings.
    """
    if isinstance(given, Headers):
        return given.copy()
    headers = Headers()
    if given is not None and not isinstance(given, Mapping):
        raise InvalidArgument(
            f"headers are a mapping such as {{'X-A': 'b'}}, or Headers, not {given!r}"
        )
    for name, value in (given or {}).items():
        if not any(isinstance(name, kind) and isinstance(value, kind) for kind in (str, bytes)):
            raise InvalidArgument(f"a field's name and value are strings, not {name!r}: {value!r}")
        headers.addRawHeader(name, value)
    return headers


def unwrap_cancelled(reason: Failure) -> Failure:
    """
    An endpoint that is cancelled fails with ``CancelledError``, as Twisted's own do; a request has it
    among its ``reasons``.
    """
    if reason.check(ResponseFailed, RequestGenerationFailed):
        for inner in reason.value.reasons:  # type: ignore[union-attr]  # both have it
            if inner.check(CancelledError):
                return Failure(inner.value)
    return reason


def install_built(connection: SwitchedConnection, factory: IProtocolFactory) -> IProtocol:
    """
    Install a factory's protocol on a connection that has just switched. The factory's ``doStart`` comes
    before, its ``doStop`` with the connection's end.

    :return: the protocol, which owns the connection.
    :raises NoProtocol: if the factory builds none; what it raises is passed on. The connection is
        closed then.
    """
    factory.doStart()
    try:
        target = factory.buildProtocol(connection.peer)
        if target is None:
            # As Twisted's own endpoints do.
            raise NoProtocol
    except BaseException:
        connection.abort()
        factory.doStop()
        raise
    connection.listener = _FactoryStopper(factory)
    # Not `install`, which checks: ClientService's protocols do not declare IProtocol.
    connection.hand_over_to(target)
    return target


class _FactoryStopper:
    """Stops a client factory when its connection ends, as Twisted's own endpoints do."""

    def __init__(self, factory: IProtocolFactory) -> None:
        self._factory = factory

    def forget(self, connection: SwitchedConnection) -> None:
        """Nothing counts the connection."""

    def ended(self, connection: SwitchedConnection, reason: Failure) -> None:
        self._factory.doStop()


@implementer(IStreamClientEndpoint)
class UpgradeEndpoint:
    """
    A client endpoint whose connections go through an upgrade: any Twisted client works over it
    unchanged.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        url: str | bytes,
        token: str,
        headers: Headers | Mapping[str, str] | None = None,
        agent: IAgent | None = None,
        timeout: float | None = 30,
        method: bytes = b"GET",
        body: bytes | IBodyProducer | None = None,
    ) -> None:
        """
        :param reactor: provides ``IReactorTime``; without an ``agent``, it also connects.
        :param url: the URL to ask for the upgrade, ``http`` or ``https``. Its fragment is not sent.
        :param token: what to upgrade to; a comma-separated list offers several.
        :param headers: further fields of the request.
        :param agent: any agent over an :class:`UpgradePool`, if the connection needs a private CA,
            cookies or a proxy. Without one: a plain ``Agent``.
        :param timeout: how many seconds connecting and switching may take; None: no limit.
        :param method: the request's method, such as Docker's POST. A server need not switch for every
            method.
        :param body: the request's content, which the server reads before it switches; set its
            ``Content-Type`` in ``headers``. Bytes are sent with each connection. An ``IBodyProducer``
            is started for each connection, which few of them can do more than once.
        :raises InvalidArgument: if the method is not a method as bytes, or is CONNECT (for which there
            is
            :class:`ConnectEndpoint`), if the body is neither bytes nor an ``IBodyProducer``, and if
            the token, the headers or the agent are of the wrong kind.
        :raises InvalidToken: if ``token`` is not an upgrade token, or a list of them.
        :raises ValueError: if the URL cannot be asked: it has another scheme (which an ``agent`` may
            know), a user in it, a bad host or port, or is not ASCII behind the host; and if the timeout
            is not above 0.
        """
        check_timeout(timeout)
        self._method, self._body = _checked_method(method), _checked_body(body)
        if agent is None or _is_http(url):
            self._url = http_url(url)
        else:
            # An agent may know schemes of its own.
            self._url = url.encode("ascii") if isinstance(url, str) else url
        self._headers = headers_of(headers)
        if not isinstance(token, str):
            raise InvalidArgument(f"a token is a str, not {token!r}")
        tokens = [str(UpgradeToken.parse(part.strip(" \t"))) for part in token.split(",")]
        self._headers.setRawHeaders(b"upgrade", [", ".join(tokens)])
        self._reactor = reactor
        self._timeout = timeout
        self._agent = Agent(reactor, pool=UpgradePool(reactor)) if agent is None else _checked(agent)

    def __repr__(self) -> str:
        # Without the query, which may hold a secret.
        url = self._url.partition(b"?")[0].decode("ascii", "backslashreplace")
        return f"<UpgradeEndpoint {url}>"

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Ask for the upgrade, and install the factory's protocol on the connection.

        :param protocolFactory: builds the protocol; its ``doStart`` comes with the 101, its ``doStop``
            with the connection's end.
        :return: fires with the protocol, which owns the connection; fails with
            :class:`~upgrade_switch.errors.NotSwitched` (a ``ConnectError``; its ``response`` has
            code, headers and body) if the server did not switch, with
            ``twisted.internet.error.TimeoutError`` if it took too long, or with what the agent failed
            with. Cancelling it closes the connection.
        """
        answered: Deferred[IResponse] = maybeDeferred(
            self._agent.request, self._method, self._url, self._headers, self._producer()
        )
        if self._timeout is not None:
            answered.addTimeout(self._timeout, self._reactor, connect_timed_out("no switch"))
        answered.addErrback(unwrap_cancelled)
        return answered.addCallback(lambda r: install_built(switched_connection(r), protocolFactory))

    def _producer(self) -> IBodyProducer | None:
        return _Content(self._body) if isinstance(self._body, bytes) else self._body


def _checked(agent: IAgent) -> IAgent:
    # treq's clients, which will do, do not declare IAgent.
    if not callable(getattr(agent, "request", None)):
        raise InvalidArgument(
            f"not an agent, as Agent(reactor, pool=UpgradePool(reactor)) is: {agent!r}"
        )
    return agent


def _checked_method(method: object) -> bytes:
    if not isinstance(method, bytes) or not is_token(method.decode("latin-1")) or method == b"CONNECT":
        raise InvalidArgument(f"a method is bytes, such as b'POST', and not CONNECT; not {method!r}")
    return method


def _checked_body(body: object) -> bytes | IBodyProducer | None:
    if not (body is None or isinstance(body, bytes) or IBodyProducer.providedBy(body)):
        raise InvalidArgument(f"a body is bytes or an IBodyProducer, not {body!r}")
    return body


@implementer(IBodyProducer)
class _Content:
    """A request's content that is there already."""

    def __init__(self, data: bytes) -> None:
        self.length = len(data)
        self._data = data

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Everything has been written."""

    resumeProducing = stopProducing = pauseProducing


def _is_http(url: str | bytes) -> bool:
    scheme = url.partition(":")[0] if isinstance(url, str) else url.partition(b":")[0].decode("latin-1")
    return scheme.lower() in ("http", "https")


@implementer(IPlugin, IStreamClientEndpointStringParserWithReactor)
class UpgradeEndpointParser:
    """Parses ``upgrade:url=http\\://host/ssh:token=ssh``, for ``clientFromString``."""

    prefix = "upgrade"

    def parseStreamClient(  # type: ignore[override]  # what comes is up to the string
        self, reactor: IReactorTime, *values: str, **named: str
    ) -> UpgradeEndpoint:
        """
        :param values: the parts of the string, by their order or (``named``) by name: ``url`` and
            ``token``, as :class:`UpgradeEndpoint` takes them (the URL's colons are escaped as
            ``\\:``), and the ``timeout`` in seconds.
        :raises ValueError: if a part is missing, unknown or invalid.
        """
        try:
            url, token, timeout = _arguments(*values, **named)
        except TypeError:
            form = r"upgrade:url=http\://host/path:token=TOKEN"
            raise ValueError(f"written {form}, with the URL's colons as \\:") from None
        return UpgradeEndpoint(reactor, url, token, timeout=float(timeout))


def _arguments(url: str, token: str, timeout: str = "30") -> tuple[str, str, str]:
    """The parts that an endpoint string may have, with Python's own check of them."""
    return url, token, timeout
