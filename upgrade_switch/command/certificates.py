"""
Whose certificates a command trusts: those that a file has, or that the system has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from twisted.web.client import BrowserLikePolicyForHTTPS
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

__all__ = [
    "ClientCertificate",
    "Named",
    "TrustRoot",
    "authorities_in",
    "default_trust",
    "is_address",
    "trust",
]


# Any: the interface of these has no public name.
TrustRoot: TypeAlias = Any
"""Who vouches for certificates."""


class ClientCertificate(NamedTuple):
    """What a client shows of itself."""

    key: PKey
    certificate: X509
    chain: Sequence[X509]
    """The certificates between its own and one that the server knows."""

    def options(self) -> dict[str, Any]:
        """As ``CertificateOptions`` takes it."""
        return {
            "privateKey": self.key,
            "certificate": self.certificate,
            "extraCertChain": list(self.chain),
        }


def default_trust(shown: ClientCertificate | None = None) -> IPolicyForHTTPS:
    """
    The policy that trusts what the system trusts.

    :param shown: what is shown to servers that ask for it.
    """
    return Named(_policy(platformTrust(), shown))


def trust(file: str, option: str = "--ca", shown: ClientCertificate | None = None) -> IPolicyForHTTPS:
    """
    The policy that trusts the certificates in a file, and no others.

    :param file: the path of a PEM file.
    :param option: what the file was given with, for messages.
    :param shown: what is shown to servers that ask for it.
    :raises UsageError: if it has no certificates.
    """
    return Named(_policy(authorities_in(file, option), shown))


def _policy(root: TrustRoot, shown: ClientCertificate | None) -> IPolicyForHTTPS:
    if shown is None:
        return BrowserLikePolicyForHTTPS(trustRoot=root)
    return _Showing(root, shown)


@implementer(IPolicyForHTTPS)
class _Showing:
    """Shows a certificate to servers that ask for one, besides what Twisted's own policy does."""

    def __init__(self, root: TrustRoot, shown: ClientCertificate) -> None:
        self._root = root
        self._shown = shown

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        return optionsForClientTLS(
            hostname.decode("ascii"),
            trustRoot=self._root,
            extraCertificateOptions=self._shown.options(),
        )


def authorities_in(file: str, option: str) -> TrustRoot:
    """
    The certificates in a file, as those who vouch for others.

    :param file: the path of a PEM file.
    :param option: what the file was given with, for messages.
    :raises UsageError: if it has no certificates.
    """
    try:
        found = load_pem_x509_certificates(Path(file).read_bytes())
    except OSError as error:
        raise UsageError(f"{option} {file}: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{option} {file}: no certificates in PEM") from None
    roots = [Certificate.loadPEM(one.public_bytes(Encoding.PEM)) for one in found]
    authorities: TrustRoot = trustRootFromCertificates(roots)
    return authorities


@implementer(IPolicyForHTTPS)
class Named:
    """
    Adds to another policy that a certificate must name its server: for one without ``subjectAltName``,
    Twisted 26.10 only logs that it could not be checked, and accepts it.
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
        self._name = IPAddress_ID(host) if is_address(host) else DNS_ID(host)

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = self._creator.clientConnectionForTLS(tlsProtocol)

        def verify(_: object, certificate: Any, error: int, depth: int, ok: int) -> bool:
            if not ok or depth:
                return bool(ok)
            try:
                verify_service_identity(extract_patterns(certificate), [self._name], [])
            except Exception:
                # Nothing would handle an exception in OpenSSL's callback.
                tlsProtocol.failVerification(Failure())
                return False
            return True

        connection.set_verify(SSL.VERIFY_PEER, verify)
        return connection


def is_address(host: str) -> bool:
    return isIPAddress(host) or isIPv6Address(host)
