"""Requests that have a body."""

from __future__ import annotations

from contextlib import suppress

from ...passage import Passage
from ...wire import Broken, Closed, Silent, Wire, shown
from ..check import Group, Level, Skipped
from .passing import through

__all__ = ["GROUP"]

GROUP = Group("Bodies: of requests that ask for an upgrade")

_BODY = b"a body, and no bytes of the new protocol"
_CHUNKS = b"28\r\n" + _BODY + b"\r\n0\r\n\r\n"
_SAID = b"sixteen bytes..."


@through(GROUP, "body-with-length", Level.MUST, "RFC 9112 §6.2", needs_upgrade=False)
def with_length(proxy: Passage) -> None:
    """POST with a body and Content-Length, which asks for the token."""
    _body_passes(proxy, f"Content-Length: {len(_BODY)}", _BODY)


@through(GROUP, "body-in-chunks", Level.MUST, "RFC 9112 §7.1", needs_upgrade=False)
def in_chunks(proxy: Passage) -> None:
    """POST with a body in chunks, which asks for the token."""
    _body_passes(proxy, "Transfer-Encoding: chunked", _CHUNKS)


@through(GROUP, "length-and-chunks", Level.MUST, "RFC 9112 §6.3", needs_upgrade=False)
def length_and_chunks(proxy: Passage) -> None:
    """POST with Transfer-Encoding: chunked and a Content-Length of 4, which asks for the token."""
    sent = proxy.upgrade("Content-Length: 4", "Transfer-Encoding: chunked", method="POST") + _CHUNKS
    with proxy.open() as near:
        near.send(sent)
        far = proxy.may_arrive(near)
        if far is None:
            proxy.refused(near)
            return
        with far:
            if b"content-length" in far.request and b"transfer-encoding" in far.request:
                raise Broken("both of them at the far side", "400, or Transfer-Encoding alone")
            body = far.body()
            far.answer("200 OK")
            if body != _BODY:
                raise Broken(f"at the far side, the body {shown(body)}", f"{shown(_BODY)}, or 400")


@through(GROUP, "length-and-chunks-is-last", Level.MUST, "RFC 9112 §6.1", needs_upgrade=False)
def length_and_chunks_is_last(proxy: Passage) -> None:
    """POST with Transfer-Encoding: chunked and a Content-Length of 4, and nothing behind it."""
    sent = proxy.request("Content-Length: 4", "Transfer-Encoding: chunked", method="POST") + _CHUNKS
    with proxy.open() as near:
        near.send(sent)
        far = proxy.may_arrive(near)
        if far is not None:
            with far:
                far.body()
                far.answer("200 OK")
        with suppress(Closed):
            proxy.refused(near)
            rest = near.rest("the end of the connection behind the answer")
            if rest:
                raise Broken(shown(rest), "the end of the connection behind the answer")


@through(GROUP, "expect-100-continue", Level.MUST, "RFC 9110 §10.1.1", needs_upgrade=False)
def expect(proxy: Passage) -> None:
    """POST with Expect: 100-continue, which asks for the token, and its body behind the 100."""
    lines = (f"Content-Length: {len(_BODY)}", "Expect: 100-continue")
    with proxy.open() as near:
        near.send(proxy.upgrade(*lines, method="POST"))
        far = proxy.may_arrive(near)
        if far is not None:
            far.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            near.interim()
        except Broken as fault:
            if far is None and not isinstance(fault, Silent):
                raise Skipped(f"the proxy itself answered: {fault.came}") from None
            raise
        near.send(_BODY)
        # A proxy may want the body first.
        far = far or proxy.arrives(near)
        with far:
            body = far.body()
            if body != _BODY:
                raise Broken(f"at the far side, the body {shown(body)}", shown(_BODY))
            far.answer("200 OK")
            near.response("POST")


def _body_passes(proxy: Passage, line: str, body: bytes) -> None:
    """At the far side, the body is one, and what is behind it belongs to the new protocol."""
    with proxy.open() as near:
        near.send(proxy.upgrade(line, method="POST") + body)
        far = proxy.may_arrive(near)
        if far is None:
            raise Skipped(f"the proxy itself answered: {_said(near)}")
        with far:
            came = far.body()
            if came != _BODY:
                raise Broken(f"at the far side, the body {shown(came)}", f"the body {shown(_BODY)}")
            if not proxy.asks(far.request):
                # Upgrade may be ignored.
                far.answer("200 OK")
                proxy.refused(near)
                return
            far.send(proxy.switching(far.request))
            proxy.switched(near)
            near.send(proxy.up(_SAID))
            proxy.far_hears(far, _SAID)


def _said(near: Wire) -> str:
    try:
        return str(near.response())
    except Closed as fault:
        return fault.came
