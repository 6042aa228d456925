"""
:class:`UpgradeEndpoint`: a client endpoint whose connections go through an upgrade.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import NoProtocol
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamClientEndpointStringParserWithReactor,
)
from twisted.plugin import IPlugin
from twisted.python.failure import Failure
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from zope.interface import implementer

from ..connection import SwitchedConnection
from ..errors import connect_timed_out
from ..negotiation import UpgradeToken
from .pool import UpgradePool, switched_connection

__all__ = ["UpgradeEndpoint", "UpgradeEndpointParser"]


_URL = re.compile(rb"https?://[^/]")


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
    ) -> None:
        """
        :param reactor: provides ``IReactorTime``; without an ``agent``, it also connects.
        :param url: the URL to ask for the upgrade, ``http`` or ``https``.
        :param token: what to upgrade to; a comma-separated list offers several.
        :param headers: further fields of the request.
        :param agent: any agent over an :class:`UpgradePool`, if the connection needs a CA, cookies or
            a proxy of its own. Without one: a plain ``Agent``.
        :param timeout: how many seconds connecting and switching may take; None: any time.
        :raises InvalidToken: if ``token`` is not an upgrade token, or a list of them.
        :raises ValueError: if the URL is not ASCII or, without an ``agent``, not an ``http`` or
            ``https`` URL; and if the timeout is not above 0.
        """
        if timeout is not None and not timeout > 0:
            raise ValueError(f"a timeout is a number of seconds above 0, not {timeout!r}")
        self._url = url.encode("ascii") if isinstance(url, str) else url
        if agent is None and not _URL.match(self._url):
            raise ValueError(f"not an http or https URL: {url!r}")
        self._headers = Headers()
        if isinstance(headers, Headers):
            self._headers = headers.copy()
        else:
            for name, value in (headers or {}).items():
                self._headers.addRawHeader(name, value)
        tokens = [str(UpgradeToken.parse(part.strip(" \t"))) for part in token.split(",")]
        self._headers.setRawHeaders(b"upgrade", [", ".join(tokens)])
        self._reactor = reactor
        self._timeout = timeout
        self._agent = Agent(reactor, pool=UpgradePool(reactor)) if agent is None else agent

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
            self._agent.request, b"GET", self._url, self._headers
        )
        if self._timeout is not None:
            answered.addTimeout(self._timeout, self._reactor, connect_timed_out("no switch"))
        installed: Deferred[IProtocol] = answered.addCallback(self._install, protocolFactory)
        return installed

    def _install(self, response: IResponse, factory: IProtocolFactory) -> IProtocol:
        connection = switched_connection(response)
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
        connection.on_end(_FactoryStopper(factory))
        # Not `install`, which checks: ClientService's protocols do not declare IProtocol.
        connection.hand_over_to(target)
        return target


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
