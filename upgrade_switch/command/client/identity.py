"""
``--cert`` and ``--key``: the certificate that ``connect`` and ``forward`` show to the server.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey
from twisted.internet.ssl import CertificateOptions
from twisted.python.usage import UsageError

from ..certificates import ClientCertificate
from ..secrets import secret_content

__all__ = ["client_certificate"]


def client_certificate(cert: str | None, key: str | None) -> ClientCertificate | None:
    """
    The certificate that a client shows.

    :param cert: the path of a PEM file with it, and with the others of its chain behind it.
    :param key: that of a file with its private key; None if that is in the same file.
    :return: None if there is none.
    :raises UsageError: if a file is not that, or if one does not belong to the other.
    """
    if cert is None:
        if key is not None:
            raise UsageError("--key needs --cert")
        return None
    place = f"--cert {cert}" if key is None else f"--key {key}"
    content = secret_content(place, key or cert)
    certificates = content if key is None else secret_content(f"--cert {cert}", cert, is_public=True)
    try:
        chain = load_pem_x509_certificates(certificates)
    except ValueError:
        raise UsageError(f"--cert {cert}: no certificate in PEM") from None
    try:
        private = load_pem_private_key(content, None)
        own = PKey.from_cryptography_key(private)  # type: ignore[arg-type]  # it says which it cannot
    except TypeError:
        raise UsageError(f"{place}: the key is encrypted, or of an unknown kind") from None
    except Exception as error:
        # Of a library in C, and of several kinds; messages may have parts of the key.
        raise UsageError(f"{place}: no private key in PEM ({type(error).__name__})") from None
    if private.public_key() != chain[0].public_key():
        raise UsageError(f"{place}: the key does not belong to the certificate in {cert}")
    certificate, *others = map(X509.from_cryptography, chain)
    shown = ClientCertificate(own, certificate, others)
    try:
        CertificateOptions(**shown.options()).getContext()
    except SSL.Error as error:
        raise UsageError(f"--cert {cert}: OpenSSL refuses it: {_reason(error)}") from None
    return shown


def _reason(error: SSL.Error) -> str:
    """What OpenSSL says: tuples of a library, a function, and a reason."""
    return ", ".join(reason for _, _, reason in error.args[0]) if error.args else "unknown"
