"""The 101: what the client gets of it, and when there must be none."""

from __future__ import annotations

from ...passage import Passage
from ...wire import Broken, Closed
from ..check import Group, Level
from .passing import through

__all__ = ["GROUP"]

GROUP = Group("The 101: what of it passes, and when it must not")

_SECTION = "RFC 9110 §7.8"
_SAID = b"sixteen bytes..."
_UNASKED = "probe-unasked"


@through(GROUP, "101-names-the-token", Level.MUST, _SECTION)
def names_the_token(proxy: Passage) -> None:
    """A request for the token, which the far side answers with a 101."""
    with proxy.asked() as (near, far):
        far.send(proxy.switching(far.request))
        response = proxy.switched(near)
    expected = f"Connection: upgrade, and Upgrade: {proxy.token}"
    named = [name.lower() for name in response.elements(b"upgrade")]
    options = [option.lower() for option in response.elements(b"connection")]
    if named != [proxy.token.lower()] or "upgrade" not in options or "close" in options:
        raise Broken(f"Connection: {', '.join(options)}, and Upgrade: {', '.join(named)}", expected)


@through(GROUP, "101-behind-100", Level.MUST, "RFC 9110 §15.2")
def behind_an_interim_response(proxy: Passage) -> None:
    """A request for the token, which the far side answers with 100 Continue and then a 101."""
    with proxy.asked() as (near, far):
        far.send(b"HTTP/1.1 100 Continue\r\n\r\n" + proxy.switching(far.request) + proxy.down(_SAID))
        proxy.switched(near)
        proxy.near_hears(near, _SAID)


@through(GROUP, "101-with-content-length", Level.MUST, "RFC 9110 §8.6")
def with_a_length(proxy: Passage) -> None:
    """A request for the token, which the far side answers with a 101 that has Content-Length: 4."""
    _with_framing(proxy, "Content-Length: 4")


@through(GROUP, "101-with-transfer-encoding", Level.MUST, "RFC 9112 §6.1")
def with_chunks(proxy: Passage) -> None:
    """A request for the token, which the far side answers with a 101 that has Transfer-Encoding."""
    _with_framing(proxy, "Transfer-Encoding: chunked")


def _with_framing(proxy: Passage, line: str) -> None:
    """Either it is no 101 for the client, or one without these fields, and its bytes pass."""
    with proxy.asked() as (near, far):
        far.send(proxy.switching(far.request, line) + proxy.down(_SAID))
        response = near.response()
        if response.status != 101:
            return
        if response.all(b"content-length") or response.all(b"transfer-encoding"):
            raise Broken(f"a 101 with {line}", "a 101 without it, or 502")
        proxy.near_hears(near, _SAID)


@through(GROUP, "101-to-plain-request", Level.MUST, _SECTION, needs_upgrade=False)
def to_a_plain_request(proxy: Passage) -> None:
    """A request without Upgrade, which the far side answers with a 101."""
    with proxy.open() as near:
        near.send(proxy.request())
        with proxy.arrives(near) as far:
            far.send(proxy.switching(far.request) + proxy.down(_SAID))
            far.half_close()
            proxy.does_not_switch(near)


@through(GROUP, "101-to-another-token", Level.MUST, _SECTION)
def to_another_token(proxy: Passage) -> None:
    """A request for the token, which the far side answers with a 101 to one that nobody asked for."""
    with proxy.asked() as (near, far):
        far.send(proxy.switching(far.request, token=_UNASKED) + proxy.down(_SAID))
        far.half_close()
        proxy.does_not_switch(near)


@through(GROUP, "101-without-upgrade", Level.PEERS, _SECTION)
def without_upgrade(proxy: Passage) -> None:
    """A request for the token, which the far side answers with a 101 that has no Upgrade."""
    with proxy.asked() as (near, far):
        far.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n")
        far.half_close()
        proxy.does_not_switch(near)


@through(GROUP, "101-to-http-1.0", Level.MUST, _SECTION, needs_upgrade=False)
def to_http_1_0(proxy: Passage) -> None:
    """A request for the token in HTTP/1.0, which the far side answers with a 101."""
    with proxy.open() as near:
        near.send(proxy.upgrade(version="HTTP/1.0"))
        far = proxy.may_arrive(near)
        if far is None:
            return
        with far:
            far.send(proxy.switching(far.request) + proxy.down(_SAID))
            far.half_close()
            proxy.does_not_switch(near)


@through(GROUP, "no-tunnel-before-101", Level.MUST, _SECTION)
def no_tunnel_before_the_101(proxy: Passage) -> None:
    """A request for the token, which the far side refuses, and a plain one in the same segment."""
    behind = proxy.request("Connection: keep-alive, probe-hop", "Probe-Hop: 1")
    with proxy.open() as near:
        near.send(proxy.upgrade() + behind)
        with proxy.upgrade_arrives(near) as far:
            far.answer("403 Forbidden", content=b"first")
        proxy.refused(near)
        try:
            second_far = proxy.arrives(near)
        except Closed:
            # It closes the connection behind a refusal, and the client asks again on another.
            return
        with second_far as far:
            far.answer("200 OK", content=b"second")
        proxy.was_read(far.request, behind)
        second = near.response()
        if (second.status, second.content) != (200, b"second"):
            raise Broken(f"{second} to the second request", "200 OK")
