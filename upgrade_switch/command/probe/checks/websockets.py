"""The opening handshake of WebSocket, and the frames that go with an end."""

from __future__ import annotations

import base64
import hashlib

from ..speech import CLOSE, PING, PONG, client_frame, next_frame
from ..subject import Subject
from ..wire import SWITCHING, Broken, Closed, Response, Wire, shown
from .check import Group, Level, Skipped
from .steps import trying

__all__ = ["GROUP"]

GROUP = Group("WebSocket: its handshake", needs_upgrade=True, only_websocket=True)

_EXAMPLE_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_EXAMPLE_ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION = "Sec-WebSocket-Version: 13"


def _handshake(server: Subject, *lines: str, method: str = "GET") -> bytes:
    """A request with these further fields, and no other of WebSocket's."""
    return server.request("Connection: Upgrade", "Upgrade: websocket", *lines, method=method)


def _key(key: str) -> str:
    return f"Sec-WebSocket-Key: {key}"


_EXAMPLE = _key(_EXAMPLE_KEY)


def _answer(server: Subject, request: bytes) -> Response:
    with server.open() as wire:
        wire.send(request)
        return wire.head()


def _refuses(server: Subject, request: bytes) -> Response:
    """Send a bad handshake, which has to be refused with an error."""
    expected = "an error (4xx)"
    with server.open() as wire:
        wire.send(request)
        response = wire.head(expected=expected)
    if not 400 <= response.status < 500:
        raise Broken(str(response), expected)
    return response


def _accepts(server: Subject, key: str, accept: bytes) -> None:
    with server.open() as wire:
        wire.send(_handshake(server, _key(key), _VERSION))
        values = server.switched(wire).all(b"sec-websocket-accept")
    if values != [accept]:
        came = ", ".join(map(shown, values)) or "none"
        raise Broken(f"Sec-WebSocket-Accept: {came}", shown(accept))


@GROUP.check("websocket-example-key", Level.MUST, "RFC 6455 §4.2.2")
def example_key(server: Subject) -> None:
    """A handshake with the key that is the RFC's example."""
    _accepts(server, _EXAMPLE_KEY, _EXAMPLE_ACCEPT)


@GROUP.check("websocket-other-keys", Level.MUST, "RFC 6455 §4.2.2")
def other_keys(server: Subject) -> None:
    """Handshakes with other keys: only zeros; with + and /; with unused bits set, as in RFC 6455."""
    zeros, both = (base64.b64encode(nonce).decode() for nonce in (bytes(16), b"\xfb\xff" * 8))
    for key in (zeros, both, "AQIDBAUGBwgJCgsMDQ4PEC=="):
        with trying(_key(key)):
            digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
            _accepts(server, key, base64.b64encode(digest))


@GROUP.check("websocket-no-key", Level.MUST, "RFC 6455 §4.2.1")
def no_key(server: Subject) -> None:
    """A handshake without Sec-WebSocket-Key."""
    _refuses(server, _handshake(server, _VERSION))


# RFC 6455 §4.2.2: a server need not decode the key.
@GROUP.check("websocket-bad-key", Level.PEERS, "RFC 6455 §4.2.1")
def bad_key(server: Subject) -> None:
    """Handshakes with keys that are not 16 bytes in Base64, and with two keys."""
    for fields in ([_key("c2hvcnQ=")], [_key("no base64!")], [_EXAMPLE, _EXAMPLE]):
        with trying(", ".join(fields)):
            _refuses(server, _handshake(server, *fields, _VERSION))


@GROUP.check("websocket-version-8", Level.PEERS, "RFC 6455 §4.4")
def version_8(server: Subject) -> None:
    """A handshake with Sec-WebSocket-Version: 8, which some servers take."""
    response = _answer(server, _handshake(server, _EXAMPLE, "Sec-WebSocket-Version: 8"))
    if response.status != SWITCHING:
        _names_13(response)


@GROUP.check("websocket-unknown-version", Level.MUST, "RFC 6455 §4.2.2")
def unknown_version(server: Subject) -> None:
    """A handshake with Sec-WebSocket-Version: 99."""
    _refuses(server, _handshake(server, _EXAMPLE, "Sec-WebSocket-Version: 99"))


@GROUP.check("websocket-versions-named", Level.MUST, "RFC 6455 §4.4")
def versions_named(server: Subject) -> None:
    """A handshake with Sec-WebSocket-Version: 99."""
    response = _answer(server, _handshake(server, _EXAMPLE, "Sec-WebSocket-Version: 99"))
    if response.status == SWITCHING:
        raise Skipped("the server took an unknown version")
    _names_13(response)


def _names_13(response: Response) -> None:
    named = response.elements(b"sec-websocket-version")
    if "13" not in named:
        came = f"Sec-WebSocket-Version: {', '.join(named)}" if named else "no Sec-WebSocket-Version"
        raise Broken(f"{response} with {came}", "one that names 13")


@GROUP.check("websocket-no-version", Level.MUST, "RFC 6455 §4.2.1")
def no_version(server: Subject) -> None:
    """A handshake without Sec-WebSocket-Version."""
    _refuses(server, _handshake(server, _EXAMPLE))


@GROUP.check("websocket-post", Level.MUST, "RFC 6455 §4.2.1")
def post(server: Subject) -> None:
    """A handshake by POST."""
    _refuses(server, _handshake(server, _EXAMPLE, _VERSION, "Content-Length: 0", method="POST"))


@GROUP.check("websocket-own-origin", Level.PEERS, "RFC 6455 §4.2.2")
def own_origin(server: Subject) -> None:
    """A handshake with the Origin of a page of the same server."""
    server.switches(f"Origin: {'https' if server.is_secure else 'http'}://{server.host}")


@GROUP.check("websocket-origins", Level.MUST, "RFC 6455 §4.2.2")
def origins(server: Subject) -> None:
    """
    Handshakes with the Origin of another page, and with those that clients in the field send, which are
    no origins: null, file://, and one with a slash behind it. To refuse them is right, too.
    """
    expected = "101, or an error (4xx)"
    for origin in ("https://probe.invalid", "null", "file://", f"http://{server.host}/"):
        with trying(f"Origin: {origin}"):
            response = _answer(server, _handshake(server, _EXAMPLE, _VERSION, f"Origin: {origin}"))
            if response.status != SWITCHING and not 400 <= response.status < 500:
                raise Broken(str(response), expected)


@GROUP.check("websocket-no-protocol-asked", Level.MUST, "RFC 6455 §4.2.2")
def no_protocol_asked(server: Subject) -> None:
    """A handshake without Sec-WebSocket-Protocol."""
    response = _answer(server, _handshake(server, _EXAMPLE, _VERSION))
    if values := response.all(b"sec-websocket-protocol"):
        raise Broken(f"Sec-WebSocket-Protocol: {shown(b', '.join(values))}", "none")


@GROUP.check("websocket-unknown-protocol", Level.MUST, "RFC 6455 §4.2.2")
def unknown_protocol(server: Subject) -> None:
    """A handshake with Sec-WebSocket-Protocol: probe-a, probe-b."""
    offered = ("probe-a", "probe-b")
    field = f"Sec-WebSocket-Protocol: {', '.join(offered)}"
    response = _answer(server, _handshake(server, _EXAMPLE, _VERSION, field))
    values = [value.decode("latin-1") for value in response.all(b"sec-websocket-protocol")]
    if response.status == SWITCHING and (len(values) > 1 or not set(values) <= set(offered)):
        raise Broken(f"Sec-WebSocket-Protocol: {', '.join(values)}", "none, or one of those offered")


@GROUP.check("websocket-unknown-extension", Level.MUST, "RFC 6455 §9.1")
def unknown_extension(server: Subject) -> None:
    """Handshakes without Sec-WebSocket-Extensions, and with one that no server knows."""
    for lines in ([], ["Sec-WebSocket-Extensions: probe-unknown; level=1"]):
        response = _answer(server, _handshake(server, _EXAMPLE, _VERSION, *lines))
        if values := response.all(b"sec-websocket-extensions"):
            raise Broken(f"Sec-WebSocket-Extensions: {shown(b', '.join(values))}", "none")


@GROUP.check("websocket-split-frame", Level.MUST, "RFC 6455 §5.2")
def split_frame(server: Subject) -> None:
    """A handshake; when the 101 has come, pings in two segments, cut behind each of 8 bytes."""
    ping = server.say(b"a ping that is cut")
    with server.open() as wire:
        wire.send(server.upgrade())
        server.switched(wire)
        for cut in range(1, 9):
            with trying(f"cut behind byte {cut}"):
                wire.send_apart(ping[:cut], ping[cut:])
                server.hears(wire, b"a ping that is cut")


@GROUP.check("websocket-unmasked-frame", Level.MUST, "RFC 6455 §5.1")
def unmasked_frame(server: Subject) -> None:
    """A handshake; when the 101 has come, a ping that is not masked."""
    with server.open() as wire:
        wire.send(server.upgrade())
        server.switched(wire)
        wire.send(client_frame(PING, b"unmasked", is_masked=False))
        expected = "the connection to be closed"
        opcode = _until_close(wire, expected)
        if opcode == PONG:
            raise Broken("a pong", expected)


def _until_close(wire: Wire, expected: str) -> int:
    """The opcode of the first frame of a close or a pong; that of a close at the connection's end."""
    try:
        while (opcode := next_frame(wire, expected)[0]) not in (CLOSE, PONG):
            pass
    except Closed:
        return CLOSE
    return opcode


@GROUP.check("websocket-close", Level.MUST, "RFC 6455 §5.5.1")
def close(server: Subject) -> None:
    """A handshake; when the 101 has come, a Close frame with code 1000."""
    expected = "a Close frame"
    with server.open() as wire:
        wire.send(server.upgrade())
        server.switched(wire)
        wire.send(client_frame(CLOSE, (1000).to_bytes(2, "big")))
        while next_frame(wire, expected)[0] != CLOSE:
            pass


@GROUP.check("websocket-close-ends", Level.SHOULD, "RFC 6455 §7.1.1")
def close_ends(server: Subject) -> None:
    """A handshake; when the 101 has come, a Close frame; then the server has to end the connection."""
    with server.open() as wire:
        wire.send(server.upgrade())
        server.switched(wire)
        wire.send(client_frame(CLOSE, (1000).to_bytes(2, "big")))
        wire.rest("the end of the connection")
