"""
Reading a TLS client's first message, to see whether it offers protocols by ALPN (RFC 7301).

OpenSSL asks about ALPN through its context, and what it does there depends on that: without a callback
it ignores ALPN, and the context may be the one of an https port, where ALPN is welcome. So the message
is looked at before OpenSSL gets it.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["HelloReader", "alert_record"]

# Content types and alerts of RFC 8446 §5.1 and §6, a message's type of §4, an extension's of §4.2.
_ALERT, _HANDSHAKE = 21, 22
_CLIENT_HELLO = 1
_ALPN = 16
_UNEXPECTED_MESSAGE, _DECODE_ERROR, _NO_APPLICATION_PROTOCOL = 10, 50, 120

_LARGEST_FRAGMENT = 2**14

# Clients send less than 4 KiB; OpenSSL takes twice as much as this.
_LARGEST_HELLO = 2**16


class HelloReader:
    """
    Reads a ClientHello, however it is cut into records and segments.

    Nothing authenticates how it is cut, or what comes in front of it: an attacker in the middle can
    change both, to have an extension overlooked. So everything that is not a ClientHello from the
    first byte to the last is refused.

    :ivar received: all bytes that have come, for OpenSSL.
    :ivar is_complete: whether the whole message has come, and offers nothing by ALPN.
    :ivar alert: the number of the alert by which the message is refused; None if it is not.
    """

    def __init__(self) -> None:
        self.received = bytearray()
        self.is_complete = False
        self.alert: int | None = None
        # Where the next record begins, and the message as far as records have brought it.
        self._at = 0
        self._message = bytearray()

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Afterwards ``is_complete`` or ``alert`` may be set; then it is over."""
        self.received += data
        while not self.is_complete and self.alert is None and self._read_record():
            pass

    def _read_record(self) -> bool:
        """:return: whether there was a whole record."""
        head = self.received[self._at : self._at + 5]
        if len(head) < 5:
            return False
        if head[0] != _HANDSHAKE or head[1] != 3:
            self.alert = _UNEXPECTED_MESSAGE
            return False
        length = int.from_bytes(head[3:])
        if not 0 < length <= _LARGEST_FRAGMENT:
            self.alert = _DECODE_ERROR
            return False
        begin = self._at + 5
        fragment = self.received[begin : begin + length]
        if len(fragment) < length:
            return False
        self._at = begin + length
        self._message += fragment
        self._look_at_message()
        return True

    def _look_at_message(self) -> None:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            self.alert = _UNEXPECTED_MESSAGE
            return
        length = int.from_bytes(message[1:4])
        if len(message) < 4:
            return
        if length > _LARGEST_HELLO:
            self.alert = _DECODE_ERROR
        elif len(message) >= 4 + length:
            try:
                offers = _ALPN in _extensions(bytes(message[4 : 4 + length]))
            except ValueError:
                self.alert = _DECODE_ERROR
                return
            if offers:
                self.alert = _NO_APPLICATION_PROTOCOL
            else:
                self.is_complete = True


def _extensions(hello: bytes) -> set[int]:
    """
    :param hello: a ClientHello without the handshake's header (RFC 8446 §4.1.2).
    :return: the types of its extensions.
    :raises ValueError: if it is not made as a ClientHello is.
    """
    # Behind the version and the random: the session, the cipher suites, the compression methods.
    at = 34
    for width in (1, 2, 1):
        at = _behind_vector(hello, at, width)
    if at == len(hello):
        return set()
    if _behind_vector(hello, at, 2) != len(hello):
        raise ValueError("something follows the extensions")
    return set(_types(hello, at + 2))


def _types(hello: bytes, at: int) -> Iterator[int]:
    while at < len(hello):
        yield int.from_bytes(hello[at : at + 2])
        at = _behind_vector(hello, at + 2, 2)


def _behind_vector(hello: bytes, at: int, width: int) -> int:
    """Where a vector ends that begins, with its length of so many bytes, at this place."""
    end = at + width + int.from_bytes(hello[at : at + width])
    if end > len(hello):
        raise ValueError("a vector is longer than the message")
    return end


def alert_record(alert: int) -> bytes:
    """A fatal alert, as it is sent before there are keys (RFC 8446 §6, RFC 5246 §7.2)."""
    return bytes([_ALERT, 3, 3, 0, 2, 2, alert])
