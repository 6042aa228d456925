"""
How ``connect`` and ``forward`` send their requests: with which fields, trusting which certificates; and
what went wrong, in words.
"""

from __future__ import annotations

import re
from base64 import b64encode

from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from twisted.internet.error import ConnectError, DNSLookupError, TimeoutError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import CertificateOptions
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from twisted.web.client import Agent, HostnameCachingHTTPSPolicy
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IPolicyForHTTPS
from zope.interface import implementer

from ...client.connect import ConnectEndpoint
from ...client.pool import UpgradePool
from ...client.urls import authority_of, parse_proxy
from ...errors import NotSwitched, cause_of
from ...negotiation import Offer
from ..certificates import ClientCertificate, default_trust, is_address
from ..exits import explain
from ..fields import encoded
from ..reactor import ICommandReactor

__all__ = ["Insecure", "agent_with", "basic", "why"]

# What UDP through a proxy asks for (RFC 9298).
_CONNECT_UDP = "connect-udp"

# RFC 9110 §11.6.1: one line may have several challenges.
_BASIC = re.compile(rb"(?:^|,)[ \t]*basic(?:[ \t,]|\Z)", re.IGNORECASE)


def basic(name: str, password: str, source: str = "--user") -> bytes:
    """
    The value of ``Authorization`` for a user name and a password (RFC 7617).

    :param source: what they were given with, for messages.
    :raises UsageError: if they contain control characters.
    """
    if re.search(r"[\x00-\x1f\x7f]", name + password):
        raise UsageError(f"{source}: control characters are not allowed")
    return b"Basic " + b64encode(encoded(f"{name}:{password}"))


@implementer(IPolicyForHTTPS)
class Insecure:
    """Accepts any certificate: somebody in the middle can read and change everything."""

    def __init__(self, shown: ClientCertificate | None = None) -> None:
        """
        :param shown: what is shown to servers that ask for it.
        """
        self._shown = shown

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        return _AnyCertificate(hostname, self._shown)


@implementer(IOpenSSLClientConnectionCreator)
class _AnyCertificate:
    def __init__(self, hostname: bytes, shown: ClientCertificate | None) -> None:
        self._hostname = hostname
        options = {} if shown is None else shown.options()
        self._context: SSL.Context = CertificateOptions(**options).getContext()

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        host = self._hostname.decode("ascii")
        # RFC 6066 §3: only for names, not for addresses.
        if not is_address(host):
            connection.set_tlsext_host_name(self._hostname)
        return connection


def agent_with(
    reactor: ICommandReactor,
    pool: UpgradePool,
    policy: IPolicyForHTTPS | None,
    proxy: str | None = None,
    proxy_policy: IPolicyForHTTPS | None = None,
) -> IAgent:
    """
    An agent that can upgrade.

    :param pool: makes its connections.
    :param policy: which certificates to trust; the system's if None.
    :param proxy: the URL of the HTTP proxy to go through.
    :param proxy_policy: which certificates of the proxy to trust; the same if None.
    """
    if policy is None:
        policy = default_trust()
    # Cached, since reading the system's certificates takes long.
    cached = HostnameCachingHTTPSPolicy(policy)
    of_proxy = cached if proxy_policy is None else HostnameCachingHTTPSPolicy(proxy_policy)
    if proxy is None:
        return Agent(reactor, cached, pool=pool)
    # The time-out of the whole is the command's.
    through = ConnectEndpoint.factory(
        reactor, proxy, timeout=None, policy=cached, proxy_policy=of_proxy
    )
    agent: IAgent = Agent.usingEndpointFactory(reactor, through, pool=pool)
    return agent


def why(reason: Failure, headers: Headers, token: str, proxy: str | None = None) -> str:
    """
    Why there is no connection, in one sentence.

    :param headers: the fields that the request was sent with.
    :param token: what it asked for.
    :param proxy: the URL of the HTTP proxy that it went through.
    """
    cause = cause_of(reason)
    if isinstance(cause, NotSwitched):
        return _why_not_switched(cause, headers, token)
    if isinstance(cause, VerificationError):
        return "the server's certificate is not trusted: it is for another name"
    if isinstance(cause, CertificateError):
        return f"the server's certificate is not trusted: {cause}"
    if isinstance(cause, SSL.Error):
        said = _of_openssl(cause)
        if "certificate verify failed" in said:
            return f"the server's certificate is not trusted: {said}"
        if "alert certificate required" in said:
            return f"the server requires a certificate (--cert): {said}"
        return f"the TLS handshake failed: {said}"
    is_late = isinstance(cause, TimeoutError)
    if proxy is not None and isinstance(cause, ConnectError | DNSLookupError) and not is_late:
        # Nothing else is connected to, and no other name is looked up.
        where = parse_proxy(proxy)
        address = authority_of(where.host, where.port).decode()
        return f"no connection to the proxy {address}: {explain(reason)}"
    return explain(reason)


def _why_not_switched(error: NotSwitched, headers: Headers, token: str) -> str:
    response = error.response
    if response.code == 407 and token == _CONNECT_UDP:
        return (
            f"the proxy requires a user name and a password (--user, or in the URL of --via): {error}"
        )
    if response.code == 407:
        return f"the proxy requires a user name and a password (in its URL, for --via): {error}"
    if response.code == 401:
        return f"{_unauthorized(error, headers.hasHeader(b'authorization'))}: {error}"
    if response.code == 426 and token in Offer.parse(response.headers.getRawHeaders(b"upgrade") or ()):
        # The server has what it was asked for, and asks for it: the request did not say so there.
        return f"{error}; a proxy on the way may have dropped the request's Upgrade field"
    location = (response.headers.getRawHeaders(b"location") or [b""])[0].decode("latin-1")
    if 300 <= response.code < 400 and location:
        return f"{error}; it redirects to {location}"
    return str(error)


def _unauthorized(error: NotSwitched, was_sent: bool) -> str:
    asked = error.response.headers.getRawHeaders(b"www-authenticate") or ()
    if asked and not any(_BASIC.search(line) for line in asked):
        return "the server requires a kind of authentication that --user does not support"
    if was_sent:
        return "the server does not accept this user name and password"
    return "the server requires a user name and a password (--user)"


def _of_openssl(error: SSL.Error) -> str:
    """The reasons of an OpenSSL error, which is a list of (library, function, reason)."""
    found = error.args[0] if error.args else ()
    if isinstance(found, str):
        return found
    reasons = [entry[-1] for entry in found if entry[-1:] and entry[-1]]
    return ", ".join(dict.fromkeys(reasons)) or "the connection ended"
