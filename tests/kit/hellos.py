"""A TLS client's first message, as OpenSSL writes it, and as an attacker in the middle may cut it."""

from __future__ import annotations

from contextlib import suppress

from OpenSSL import SSL

#: The alert ``no_application_protocol``, fatal (RFC 7301 §3.2).
NO_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"


def hello(
    offered: tuple[bytes, ...] = (), version: int = SSL.TLS1_3_VERSION, name: bytes = b"localhost"
) -> bytes:
    """
    A ClientHello in its record.

    :param offered: the protocols that it offers by ALPN.
    :param version: the newest version of TLS that it offers.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(version)
    if offered:
        context.set_alpn_protos(list(offered))
    connection = SSL.Connection(context, None)
    connection.set_tlsext_host_name(name)
    connection.set_connect_state()
    with suppress(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(65536)


def cut(stream: bytes, size: int) -> bytes:
    """The same message in records of so many bytes."""
    message = stream[5:]
    fragments = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(stream[:3] + len(part).to_bytes(2, "big") + part for part in fragments)
