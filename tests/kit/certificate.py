"""A certificate authority, and the certificate of ``localhost``, made anew for each run."""

from __future__ import annotations

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.ssl import Certificate, PrivateCertificate


def make_certificate(host: str = "localhost") -> tuple[bytes, bytes]:
    """A new certificate, its own authority, for a host and for 127.0.0.1; and its key; both in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


CERTIFICATE_PEM, KEY_PEM = make_certificate()
AUTHORITY = Certificate.loadPEM(CERTIFICATE_PEM)
SERVER = PrivateCertificate.loadPEM(CERTIFICATE_PEM + KEY_PEM)

#: Of the same name, and nobody's whom the tests trust.
STRANGER = Certificate.loadPEM(make_certificate()[0])
