"""The fields: those for one connection only, those that a proxy adds, and all others."""

from __future__ import annotations

from .....fields import is_host
from ...farside import Head
from ...passage import CLIENT, FAR_SIDE, Passage
from ...wire import Broken, Response, shown
from ..check import Group, Level
from .passing import only_websocket, through

__all__ = ["GROUP"]

GROUP = Group("Fields: hop by hop, added, and kept")

_HOP_BY_HOP = "RFC 9110 §7.6.1"
_VIA = "RFC 9110 §7.6.3"
_KEPT = "RFC 9110 §5.1"
_NAMED = ("Connection: probe-hop", "Probe-Hop: 1")
# RFC 5737: nobody's.
_SOMEBODY = "192.0.2.1"


@through(GROUP, "connection-of-upgrade", Level.MUST, "RFC 9110 §7.8")
def connection_of_an_upgrade(proxy: Passage) -> None:
    """A request for the token, with Connection: keep-alive, Upgrade."""
    with proxy.asked(connection=["keep-alive, Upgrade"]) as (_near, far):
        far.answer("200 OK")


@through(GROUP, "named-field-of-upgrade", Level.MUST, _HOP_BY_HOP)
def named_in_an_upgrade(proxy: Passage) -> None:
    """A request for the token, with Connection: Upgrade, probe-hop, and a field Probe-Hop."""
    with proxy.asked("Probe-Hop: 1", connection=["Upgrade, probe-hop"]) as (_near, far):
        far.answer("200 OK")
        _is_removed(far.request, FAR_SIDE, b"probe-hop")


@through(GROUP, "named-field-second-line", Level.MUST, _HOP_BY_HOP)
def named_in_a_second_line(proxy: Passage) -> None:
    """A request for the token, with a second line Connection: probe-hop, and a field Probe-Hop."""
    with proxy.open() as near:
        near.send(proxy.upgrade("Probe-Hop: 1", connection=["Upgrade", "probe-hop"]))
        with proxy.arrives(near) as far:
            far.answer("200 OK")
            _is_removed(far.request, FAR_SIDE, b"probe-hop")


@through(GROUP, "named-field-of-request", Level.MUST, _HOP_BY_HOP, needs_upgrade=False)
def named_in_a_request(proxy: Passage) -> None:
    """A plain request, with Connection: probe-hop, and a field Probe-Hop."""
    _is_removed(_arrived(proxy, *_NAMED), FAR_SIDE, b"probe-hop")


@through(GROUP, "named-field-of-101", Level.MUST, _HOP_BY_HOP)
def named_in_a_101(proxy: Passage) -> None:
    """A request for the token, answered with a 101 that has Connection: probe-hop, and Probe-Hop."""
    with proxy.asked() as (near, far):
        far.send(proxy.switching(far.request, *_NAMED))
        _is_removed(proxy.switched(near), CLIENT, b"probe-hop")


@through(GROUP, "named-field-of-refusal", Level.MUST, _HOP_BY_HOP)
def named_in_a_refusal(proxy: Passage) -> None:
    """A request for the token, answered with 403, Connection: probe-hop, and Probe-Hop."""
    with proxy.open() as near:
        near.send(proxy.upgrade())
        with proxy.upgrade_arrives(near) as far:
            far.answer("403 Forbidden", *_NAMED)
        _is_removed(proxy.refused(near), CLIENT, b"probe-hop")


@through(GROUP, "keep-alive", Level.SHOULD, _HOP_BY_HOP, needs_upgrade=False)
def keep_alive(proxy: Passage) -> None:
    """A request with a Keep-Alive that Connection does not name."""
    _is_removed(_arrived(proxy, "Keep-Alive: timeout=77"), FAR_SIDE, b"keep-alive", b"timeout=77")


@through(GROUP, "proxy-connection", Level.SHOULD, _HOP_BY_HOP, needs_upgrade=False)
def proxy_connection(proxy: Passage) -> None:
    """A request with Proxy-Connection."""
    _is_removed(_arrived(proxy, "Proxy-Connection: keep-alive"), FAR_SIDE, b"proxy-connection")


@through(GROUP, "te", Level.MUST, "RFC 9110 §10.1.4", needs_upgrade=False)
def te(proxy: Passage) -> None:
    """A request with TE: trailers, which Connection names."""
    head = _arrived(proxy, "Connection: TE", "TE: trailers")
    if b"te" in head and "te" not in head.elements(b"connection"):
        raise Broken("TE at the far side, which Connection does not name", "no TE, or Connection: TE")


@through(GROUP, "via", Level.MUST, _VIA, needs_upgrade=False)
def via(proxy: Passage) -> None:
    """A request."""
    if b"via" not in _arrived(proxy):
        raise Broken("no Via at the far side", "Via, as a gateway has to add it to each request")


@through(GROUP, "via-of-upgrade", Level.MUST, _VIA)
def via_of_an_upgrade(proxy: Passage) -> None:
    """A request for the token."""
    with proxy.asked() as (_near, far):
        far.answer("200 OK")
        if b"via" not in far.request:
            raise Broken("no Via at the far side", "Via, as a gateway has to add it")


@through(GROUP, "via-kept", Level.MUST, _VIA, needs_upgrade=False)
def via_is_kept(proxy: Passage) -> None:
    """A request with Via: 1.1 probe-before."""
    found = _arrived(proxy, "Via: 1.1 probe-before").elements(b"via")
    if found[:1] != ["1.1 probe-before"]:
        expected = "at the far side, 1.1 probe-before, and the proxy's behind it"
        raise Broken(f"Via: {', '.join(found)}" if found else "no Via", expected)


@through(GROUP, "host", Level.MUST, "RFC 9112 §3.2", needs_upgrade=False)
def host(proxy: Passage) -> None:
    """A request."""
    found = _arrived(proxy).all(b"host")
    if len(found) != 1 or not is_host(found[0]):
        raise Broken(f"at the far side, Host {shown(b', '.join(found))}", "one Host")


@through(GROUP, "host-kept", Level.PEERS, "RFC 6455 §10.2")
def host_is_kept(proxy: Passage) -> None:
    """
    A request for the token.

    A server compares a WebSocket's Origin with the Host.
    """
    with proxy.asked() as (_near, far):
        far.answer("200 OK")
        found = b", ".join(far.request.all(b"host"))
        if found.lower() != proxy.host.lower().encode("latin-1"):
            raise Broken(f"at the far side, Host: {shown(found)}", f"Host: {proxy.host}")


@through(GROUP, "forwarded-for", Level.PEERS, "RFC 7239 §4", needs_upgrade=False)
def forwarded_for(proxy: Passage) -> None:
    """A request."""
    head = _arrived(proxy)
    if not _said_to_be_for(head):
        raise Broken("neither at the far side", "X-Forwarded-For, or Forwarded: for=")


@through(GROUP, "forwarded-for-forged", Level.PEERS, "RFC 7239 §8.1", needs_upgrade=False)
def forged(proxy: Passage) -> None:
    """A request with an X-Forwarded-For, in which the client has written somebody's address."""
    found = _arrived(proxy, f"X-Forwarded-For: {_SOMEBODY}").elements(b"x-forwarded-for")
    if found[-1:] == [_SOMEBODY]:
        expected = "the client's own address last, or no X-Forwarded-For"
        raise Broken(f"at the far side, X-Forwarded-For: {', '.join(found)}", expected)


@through(GROUP, "other-fields-of-upgrade", Level.MUST, _KEPT)
def other_fields(proxy: Passage) -> None:
    """A request for the token with fields that nobody knows, two with the same name, and cookies."""
    lines = ("Probe-One: a", "Probe-Two: b, c", "probe-one: d", "Cookie: e=f; g=h")
    with proxy.asked(*lines) as (_near, far):
        far.answer("200 OK")
        head = far.request
    expected = "at the far side, the fields as they were sent"
    found = (head.elements(b"probe-one"), head.elements(b"probe-two"), head.all(b"cookie"))
    if found != (["a", "d"], ["b", "c"], [b"e=f; g=h"]):
        raise Broken(f"{found[0]}, {found[1]} and {shown(b', '.join(found[2]))}", expected)


@through(GROUP, "other-fields-of-101", Level.MUST, _KEPT)
def other_fields_of_a_101(proxy: Passage) -> None:
    """A request for the token, answered with a 101 with a field that nobody knows, and two cookies."""
    lines = ("Probe-One: a", "Set-Cookie: b=c", "Set-Cookie: d=e")
    with proxy.asked() as (near, far):
        far.send(proxy.switching(far.request, *lines))
        response = proxy.switched(near)
    cookies = [value.partition(b";")[0] for value in response.all(b"set-cookie")]
    found = (response.elements(b"probe-one"), [c for c in cookies if c in (b"b=c", b"d=e")])
    if found != (["a"], [b"b=c", b"d=e"]):
        raise Broken(f"{found[0]} and {shown(b', '.join(cookies))}", "the fields as they were sent")


@through(GROUP, "websocket-fields", Level.MUST, "RFC 6455 §4.2.2")
def websocket_fields(proxy: Passage) -> None:
    """A WebSocket's request with Origin and Sec-WebSocket-Protocol, and its 101."""
    only_websocket(proxy)
    lines = (
        "Origin: http://probe.example",
        "Sec-WebSocket-Protocol: probe-one, probe-two",
    )
    with proxy.asked(*lines) as (near, far):
        far.send(proxy.switching(far.request, "Sec-WebSocket-Protocol: probe-two"))
        response = proxy.switched(near)
        head = far.request
    sent = {
        name.lower().encode(): value.strip() for name, _, value in (x.partition(":") for x in lines)
    }
    for name, value in sent.items():
        if head.elements(name) != value.split(", "):
            found = shown(b", ".join(head.all(name)))
            raise Broken(f"at the far side, {name.decode()}: {found}", f"{name.decode()}: {value}")
    if response.elements(b"sec-websocket-protocol") != ["probe-two"]:
        raise Broken("a 101 without the Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: probe-two")


def _arrived(proxy: Passage, *lines: str) -> Head:
    """The head of a plain request as it comes to the far side."""
    with proxy.open() as near:
        near.send(proxy.request(*lines))
        with proxy.arrives(near) as far:
            far.answer("200 OK")
            near.response()
            return far.request


def _is_removed(message: Head | Response, where: str, name: bytes, value: bytes | None = None) -> None:
    """
    :param value: what the proxy's own field of this name would not have.
    """
    found = message.all(name)
    if found and value in (None, *found):
        text = name.decode("latin-1")
        raise Broken(f"{text}: {shown(b', '.join(found))} at {where}", f"no {text} there")


def _said_to_be_for(head: Head) -> bool:
    """Whether a request says on whose behalf it is."""
    said = b"; ".join(head.all(b"forwarded")).lower()
    return b"x-forwarded-for" in head or b"x-real-ip" in head or b"for=" in said
