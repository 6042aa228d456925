"""A far side that refuses, or fails: what the client gets, and whether its connection stays HTTP."""

from __future__ import annotations

from ...passage import Passage
from ...wire import Broken, Closed, NotHTTP, Response, Silent, Wire, shown
from ..check import Group, Level, Skipped
from .passing import through

__all__ = ["GROUP"]

GROUP = Group("Refusals: an answer other than 101, and none")

_SECTION = "RFC 9110 §7.8"
_CONTENT = b"why it was refused"
_CLOSES = "see connection-stays"
_SAID = b"sixteen bytes..."


@through(GROUP, "refusal-403", Level.MUST, _SECTION)
def forbidden(proxy: Passage) -> None:
    """A request for the token, which the far side answers with 403, a field and content."""
    with proxy.open() as near:
        _refused(proxy, near, "403 Forbidden")


@through(GROUP, "refusal-200", Level.MUST, _SECTION)
def ignored(proxy: Passage) -> None:
    """A request for the token, which the far side answers with 200, a field and content."""
    with proxy.open() as near:
        _refused(proxy, near, "200 OK")


@through(GROUP, "refusal-426", Level.MUST, "RFC 9110 §15.5.22")
def required(proxy: Passage) -> None:
    """A plain request, which the far side answers with 426, Upgrade, and content."""
    with proxy.open() as near:
        near.send(proxy.request())
        with proxy.arrives(near) as far:
            lines = (f"Upgrade: {proxy.token}", "Connection: Upgrade", "Probe-Field: kept")
            far.answer("426 Upgrade Required", *lines, content=_CONTENT)
        response = near.response()
    _is_passed(response, "426 Upgrade Required")
    if proxy.token.lower() not in map(str.lower, response.elements(b"upgrade")):
        raise Broken("426 without Upgrade", f"426 with Upgrade: {proxy.token}")


@through(GROUP, "connection-of-426", Level.MUST, _SECTION)
def connection_of_426(proxy: Passage) -> None:
    """A plain request, which the far side answers with 426 and Upgrade."""
    with proxy.open() as near:
        near.send(proxy.request())
        with proxy.arrives(near) as far:
            far.answer("426 Upgrade Required", f"Upgrade: {proxy.token}", "Connection: Upgrade")
        response = near.response()
    named, options = response.elements(b"upgrade"), response.elements(b"connection")
    if named and "upgrade" not in map(str.lower, options):
        connection = response.listed(b"connection")
        came = f"{response} with Upgrade: {response.listed(b'upgrade')} and Connection: {connection}"
        raise Broken(came, "Connection: upgrade beside Upgrade")


@through(GROUP, "request-behind-refusal", Level.MUST, "RFC 9112 §9.3")
def then_a_request(proxy: Passage) -> None:
    """A request for the token, which the far side refuses, and then a plain request."""
    with proxy.open() as near:
        _refused(proxy, near, "403 Forbidden")
        try:
            proxy.goes_on(near)
        except Closed:
            raise Skipped(_CLOSES) from None


@through(GROUP, "upgrade-behind-refusal", Level.MUST, _SECTION)
def then_an_upgrade(proxy: Passage) -> None:
    """A request for the token, which the far side refuses, and then one that it answers with a 101."""
    with proxy.open() as near:
        _refused(proxy, near, "403 Forbidden")
        sent = proxy.upgrade("Probe-Hop: 1", connection=["Upgrade, probe-hop"])
        near.send(sent)
        try:
            far = proxy.upgrade_arrives(near)
        except Closed:
            raise Skipped(_CLOSES) from None
        with far:
            proxy.was_read(far.request, sent)
            far.send(proxy.switching(far.request))
            proxy.switched(near)
            near.send(proxy.up(_SAID))
            proxy.far_hears(far, _SAID)


@through(GROUP, "connection-stays", Level.PEERS, "RFC 9112 §9.3")
def stays(proxy: Passage) -> None:
    """A request for the token, which the far side refuses, and then a plain request."""
    with proxy.open() as near:
        response = _refused(proxy, near, "403 Forbidden")
        if "close" in map(str.lower, response.elements(b"connection")):
            raise Broken("Connection: close", "a connection that stays open")
        proxy.goes_on(near)


@through(GROUP, "far-side-closes", Level.PEERS, "RFC 9110 §15.6.3")
def closes(proxy: Passage) -> None:
    """A request for the token, upon which the far side closes the connection."""
    with proxy.open() as near:
        near.send(proxy.upgrade())
        # A proxy may try again.
        for _ in range(4):
            far = proxy.may_arrive(near)
            if far is None:
                break
            with far:
                pass
        _is_gateway_error(near)


@through(GROUP, "far-side-is-no-http", Level.PEERS, "RFC 9110 §15.6.3")
def no_http(proxy: Passage) -> None:
    """A request for the token, which the far side answers with the banner of SSH."""
    with proxy.open() as near:
        near.send(proxy.upgrade())
        with proxy.upgrade_arrives(near) as far:
            far.send(b"SSH-2.0-probe\r\n")
        _is_gateway_error(near)


@through(GROUP, "refusal-cut-off", Level.PEERS, "RFC 9112 §8")
def cut_off(proxy: Passage) -> None:
    """A request for the token, which the far side answers with 403, but half of its content."""
    with proxy.open() as near:
        near.send(proxy.upgrade())
        with proxy.upgrade_arrives(near) as far:
            far.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\n\r\nhalf")
        expected = "an answer that is cut off, or 502"
        try:
            response = near.response(expected=expected)
        except Silent:
            raise
        except (Closed, NotHTTP):
            return
    if response.status < 500:
        raise Broken(f"{response}, whole, with {shown(response.content)}", expected)


def _refused(proxy: Passage, near: Wire, status: str) -> Response:
    near.send(proxy.upgrade())
    with proxy.upgrade_arrives(near) as far:
        far.answer(status, "Probe-Field: kept", content=_CONTENT)
    response = proxy.refused(near)
    _is_passed(response, status)
    return response


def _is_passed(response: Response, status: str) -> None:
    expected = f"{status} with its field and content"
    if str(response.status) != status[:3]:
        raise Broken(str(response), expected)
    if response.content != _CONTENT:
        raise Broken(f"{response} with {response.content[:60]!r}", expected)
    if response.all(b"probe-field") != [b"kept"]:
        raise Broken(f"{response} without the field", expected)


def _is_gateway_error(near: Wire) -> None:
    expected = "502 Bad Gateway, or another 5xx"
    response = near.response(expected=expected)
    if response.status < 500:
        raise Broken(str(response), expected)
