"""
How ``connect`` and ``forward`` ask: the fields of the request, whose certificates they trust, and what
went wrong in words.
"""

from __future__ import annotations

import os
import re
from base64 import b64encode
from getpass import getpass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import Certificate, CertificateOptions, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HostnameCachingHTTPSPolicy
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IPolicyForHTTPS
from zope.interface import implementer

from ...client.pool import UpgradePool
from ...errors import NotSwitched
from ...fields import is_host
from ..exits import explain

__all__ = ["Insecure", "agent_with", "ask_password", "basic", "cause_of", "header", "trust", "why"]

# RFC 9110 §5.6.2 and §5.5.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

# RFC 9110 §11.6.1: one line may have several challenges.
_BASIC = re.compile(rb"(?:^|,)[ \t]*basic(?:[ \t,]|\Z)", re.IGNORECASE)

# The connection's own (§7.6.1), and those of a body, which there is not.
_NOT_YOURS = {
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}


def header(value: str) -> tuple[str, bytes]:
    """
    :param value: ``Name: value``.
    :return: the field's name and value.
    :raises UsageError: for what is no field, or one that is not up to the user.
    """
    name, colon, content = value.partition(":")
    if not colon or not _TOKEN.match(name):
        raise UsageError(f"--header wants 'Name: value', not {value!r}")
    if _CONTROL.search(content):
        raise UsageError(f"--header {name}: no line breaks and no other control characters")
    if name.lower() in _NOT_YOURS:
        raise UsageError(f"--header {name}: that field is not yours to set here")
    content = content.strip(" \t")
    if name.lower() == "host" and not is_host(_utf8(content)):
        raise UsageError(f"--header {name}: not a host: {content!r}")
    return name, _utf8(content)


def ask_password(name: str) -> str:
    """
    Ask for a password on the terminal.

    :raises UsageError: where there is no terminal, or no answer.
    """
    try:
        # Else getpass would read it from standard input, which is the connection's.
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        raise UsageError(f"--user {name}: no terminal to ask for the password on") from None
    try:
        return getpass(f"Password of {name}: ")
    except (EOFError, KeyboardInterrupt):
        raise UsageError(f"--user {name}: no password") from None


def basic(name: str, password: str) -> bytes:
    """
    :return: what ``Authorization`` says (RFC 7617).
    :raises UsageError: for control characters.
    """
    if re.search(r"[\x00-\x1f\x7f]", name + password):
        raise UsageError("--user: no control characters in a name or a password")
    return b"Basic " + b64encode(_utf8(f"{name}:{password}"))


def _utf8(text: str) -> bytes:
    """What the shell has passed, in UTF-8; bytes that were none are what they were."""
    return text.encode("utf-8", "surrogateescape")


def trust(file: str) -> IPolicyForHTTPS:
    """
    :param file: where the certificates are that are to be trusted, in PEM.
    :raises UsageError: where there are none.
    """
    try:
        found = load_pem_x509_certificates(Path(file).read_bytes())
    except OSError as error:
        raise UsageError(f"--ca {file}: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"--ca {file}: no certificates in PEM") from None
    roots = [Certificate.loadPEM(one.public_bytes(Encoding.PEM)) for one in found]
    return Named(BrowserLikePolicyForHTTPS(trustRoot=trustRootFromCertificates(roots)))


@implementer(IPolicyForHTTPS)
class Insecure:
    """Takes any certificate: whoever stands in the middle can read and write."""

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        return _AnyCertificate(hostname)


@implementer(IOpenSSLClientConnectionCreator)
class _AnyCertificate:
    def __init__(self, hostname: bytes) -> None:
        self._hostname = hostname
        self._context: SSL.Context = CertificateOptions().getContext()

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        host = self._hostname.decode("ascii")
        # RFC 6066 §3: an address is no name.
        if not _is_address(host):
            connection.set_tlsext_host_name(self._hostname)
        return connection


@implementer(IPolicyForHTTPS)
class Named:
    """
    Another policy, and no server whose certificate names nobody (no ``subjectAltName``): of such a one
    Twisted 26.10 logs that it could not be checked, and lets it through.
    """

    def __init__(self, policy: IPolicyForHTTPS) -> None:
        self._policy = policy

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        return _NamedConnections(self._policy.creatorForNetloc(hostname, port), hostname)


@implementer(IOpenSSLClientConnectionCreator)
class _NamedConnections:
    def __init__(self, creator: IOpenSSLClientConnectionCreator, hostname: bytes) -> None:
        self._creator = creator
        host = hostname.decode("ascii")
        self._name = IPAddress_ID(host) if _is_address(host) else DNS_ID(host)

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = self._creator.clientConnectionForTLS(tlsProtocol)

        def verify(_: object, certificate: Any, error: int, depth: int, ok: int) -> bool:
            if not ok or depth:
                return bool(ok)
            try:
                verify_service_identity(extract_patterns(certificate), [self._name], [])
            except Exception:
                # Whatever it is, an exception in here would be nobody's.
                tlsProtocol.failVerification(Failure())
                return False
            return True

        connection.set_verify(SSL.VERIFY_PEER, verify)
        return connection


def _is_address(host: str) -> bool:
    return isIPAddress(host) or isIPv6Address(host)


def agent_with(reactor: Any, policy: IPolicyForHTTPS | None) -> IAgent:
    """
    :param policy: whom to trust; the system's certificates if None.
    :return: an agent that can upgrade.
    """
    if policy is None:
        policy = Named(BrowserLikePolicyForHTTPS())
    # Reading the system's certificates takes its time: once is enough.
    return Agent(reactor, HostnameCachingHTTPSPolicy(policy), pool=UpgradePool(reactor))


def cause_of(reason: Failure) -> BaseException:
    """What is at the bottom of a failure: Twisted wraps the errors of the network in others."""
    reasons = getattr(reason.value, "reasons", None)
    if reasons and not str(getattr(reason.value, "message", "")):
        return cause_of(reasons[0])
    assert reason.value is not None
    return reason.value


def why(reason: Failure, headers: Headers) -> str:
    """
    Why there is no connection, in words.

    :param headers: the fields that were sent.
    """
    cause = cause_of(reason)
    if isinstance(cause, NotSwitched) and cause.response.code == 401:
        return f"{_unauthorized(cause, headers.hasHeader(b'authorization'))}: {cause}"
    if isinstance(cause, VerificationError):
        return "the server's certificate is not to be trusted: it is for another name"
    if isinstance(cause, CertificateError):
        return f"the server's certificate is not to be trusted: {cause}"
    if isinstance(cause, SSL.Error):
        said = _of_openssl(cause)
        if "certificate verify failed" in said:
            return f"the server's certificate is not to be trusted: {said}"
        return f"no TLS with the server: {said}"
    return explain(reason)


def _unauthorized(error: NotSwitched, was_sent: bool) -> str:
    asked = error.response.headers.getRawHeaders(b"www-authenticate") or ()
    if asked and not any(_BASIC.search(line) for line in asked):
        return "the server wants to know who is there in a way that --user does not know"
    if was_sent:
        return "the server does not accept this user and password"
    return "the server wants a user and a password (--user)"


def _of_openssl(error: SSL.Error) -> str:
    """Of OpenSSL's errors, triples of library, function and reason, the reasons."""
    found = error.args[0] if error.args else ()
    if isinstance(found, str):
        return found
    reasons = [entry[-1] for entry in found if entry[-1:] and entry[-1]]
    return ", ".join(dict.fromkeys(reasons)) or "the connection ended in the handshake"
