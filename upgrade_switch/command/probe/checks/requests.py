"""What HTTP/1.1 asks of the requests around an upgrade, and of what follows one that is refused."""

from __future__ import annotations

import re
from contextlib import suppress
from urllib.parse import urlsplit

from ..subject import Subject
from ..wire import SWITCHING, Broken, Closed, Response, Wire
from .check import Group, Level, Skipped
from .steps import (
    UNKNOWN,
    chunked,
    does_not_switch,
    heard,
    is_answered,
    stays_open,
    switched_early,
    switched_with_content,
    trying,
)

__all__ = ["GROUP"]

GROUP = Group("Requests: HTTP/1.1 around the upgrade", needs_upgrade=True)

_SAID = b"sixteen bytes..."


@GROUP.check("http-1.0", Level.MUST, "RFC 9110 §7.8")
def http_1_0(server: Subject) -> None:
    """An upgrade in an HTTP/1.0 request."""
    does_not_switch(server, server.upgrade(version="HTTP/1.0"))


@GROUP.check("host-missing", Level.MUST, "RFC 9112 §3.2", needs_upgrade=False)
def host_missing(server: Subject) -> None:
    """An upgrade without Host."""
    is_answered(server, server.upgrade(host=()), 400)


@GROUP.check("host-twice", Level.MUST, "RFC 9112 §3.2", needs_upgrade=False)
def host_twice(server: Subject) -> None:
    """An upgrade with two Host lines: the same one twice, and two different ones."""
    for other in (server.host, "probe.invalid"):
        with trying(f"Host: {server.host}, and Host: {other}"):
            is_answered(server, server.upgrade(host=(server.host, other)), 400)


@GROUP.check("host-bad", Level.MUST, "RFC 9112 §3.2", needs_upgrade=False)
def host_bad(server: Subject) -> None:
    """An upgrade with a Host that is no host."""
    for host in ("a b", "a/b", "a:b", "u@a"):
        with trying(f"Host: {host}"):
            is_answered(server, server.upgrade(host=(host,)), 400)


@GROUP.check("absolute-form", Level.MUST, "RFC 9112 §3.2.2")
def absolute_form(server: Subject) -> None:
    """An upgrade with the whole URL as its target."""
    server.switches(target=_absolute(server))


@GROUP.check("absolute-form-other-host", Level.MUST, "RFC 9112 §3.2.2")
def absolute_form_other_host(server: Subject) -> None:
    """An upgrade with the whole URL as its target, and another Host, which has to be ignored."""
    server.switches(target=_absolute(server), host=("probe.invalid",))


def _absolute(server: Subject) -> str:
    return f"{urlsplit(server.url).scheme}://{server.host}{server.path}"


@GROUP.check("split-request", Level.MUST, "RFC 9112 §2.2")
def split_request(server: Subject) -> None:
    """An upgrade in many segments, which end behind the first byte, and between each CR and its LF."""
    request = server.upgrade()
    with server.open() as wire:
        wire.send_apart(request[:1], *re.split(b"(?<=\r)", request[1:]))
        server.switched(wire)
        server.talks(wire)


@GROUP.check("empty-line-in-front", Level.SHOULD, "RFC 9112 §2.2")
def empty_line_in_front(server: Subject) -> None:
    """An empty line, then an upgrade."""
    with server.open() as wire:
        wire.send(b"\r\n" + server.upgrade())
        server.switched(wire)
        server.talks(wire)


@GROUP.check("space-before-colon", Level.MUST, "RFC 9112 §5.1", needs_upgrade=False)
def space_before_colon(server: Subject) -> None:
    """An upgrade with a space between the name Upgrade and its colon."""
    request = server.request("Connection: Upgrade", f"Upgrade : {server.token}", *server.handshake())
    is_answered(server, request, 400)


@GROUP.check("bad-content-length", Level.MUST, "RFC 9112 §6.3", needs_upgrade=False)
def bad_content_length(server: Subject) -> None:
    """An upgrade with a Content-Length that is no number, and with two different ones."""
    for fields in (["Content-Length: 1x"], ["Content-Length: 1", "Content-Length: 2"]):
        with trying(", ".join(fields)):
            is_answered(server, server.upgrade(*fields), 400)


@GROUP.check("bad-transfer-encoding", Level.MUST, "RFC 9112 §6.3", needs_upgrade=False)
def bad_transfer_encoding(server: Subject) -> None:
    """An upgrade with Transfer-Encoding: probe-unknown, which does not tell where the content ends."""
    is_answered(server, server.upgrade(f"Transfer-Encoding: {UNKNOWN}"), 400, 501)


# A 101 could be called no final response, behind which the connection has to be closed.
@GROUP.check("length-and-chunks", Level.PEERS, "RFC 9112 §6.1")
def length_and_chunks(server: Subject) -> None:
    """
    An upgrade with both Content-Length and Transfer-Encoding, behind which a server has to close the
    connection.
    """
    content = chunked(b"content")
    fields = (f"Content-Length: {len(content)}", "Transfer-Encoding: chunked")
    with suppress(Closed):
        does_not_switch(server, server.upgrade(*fields, method="POST") + content)


# RFC 9110 §10.1.1: a server may leave out the 100 where there is no content.
@GROUP.check("expect-continue", Level.MUST, "RFC 9110 §7.8", websocket=Level.PEERS)
def expect_continue(server: Subject) -> None:
    """
    A request with Upgrade, Content-Length and Expect: 100-continue; its content only behind the 100;
    then 16 bytes of the new protocol.
    """
    content = b"content"
    method = "GET" if server.is_websocket else "POST"
    fields = (f"Content-Length: {len(content)}", "Expect: 100-continue")
    with server.open() as wire:
        wire.send(server.upgrade(*fields, method=method))
        first = wire.response(expected="100 Continue, then 101", interim=True)
        if first.status >= 200:
            raise Skipped(f"the server does not switch after content: {first}")
        if first.status == SWITCHING:
            raise Broken(f"{first} at once", "100 Continue, then 101")
        wire.send(content + server.say(_SAID))
        switched_with_content(server, wire)
        heard(server, wire, _SAID)


@GROUP.check("second-request", Level.MUST, "RFC 9112 §9.3")
def second_request(server: Subject) -> None:
    """A GET; when it is answered, an upgrade on the same connection."""
    with server.open() as wire:
        wire.send(server.request())
        with stays_open(server.refused(wire)):
            wire.send(server.upgrade())
            server.switched(wire)
        server.talks(wire)


@GROUP.check("pipelined-answered", Level.PEERS, "RFC 9112 §9.3.2")
def pipelined_answered(server: Subject) -> None:
    """A GET and a HEAD in one segment: the first has to be answered, whatever becomes of the other."""
    with server.open() as wire:
        wire.send(server.request() + server.request(method="HEAD"))
        wire.head(expected="an answer to the first request")


@GROUP.check("pipelined", Level.MUST, "RFC 9112 §9.3.2")
def pipelined(server: Subject) -> None:
    """A GET and an upgrade in one segment."""
    with server.open() as wire:
        wire.send(server.request() + server.upgrade())
        with stays_open(_first_answer(server, wire)):
            server.switched(wire)
        server.talks(wire)


@GROUP.check("pipelined-trailing-data", Level.MUST, "RFC 9112 §9.3.2", websocket=Level.PEERS)
def pipelined_trailing_data(server: Subject) -> None:
    """In one segment: a GET, an upgrade, and 16 bytes of the new protocol."""
    with server.open() as wire:
        wire.send(server.request() + server.upgrade() + server.say(_SAID))
        with stays_open(_first_answer(server, wire)):
            switched_early(server, wire)
        heard(server, wire, _SAID)


@GROUP.check("refused-stays-open", Level.PEERS, "RFC 9112 §9.3")
def refused_stays_open(server: Subject) -> None:
    """A GET with Upgrade: an unknown token; when it is answered, another GET on the same connection."""
    with server.open() as wire:
        wire.send(server.request("Connection: Upgrade", f"Upgrade: {UNKNOWN}"))
        server.refused(wire)
        wire.send(server.request())
        wire.response(expected="an answer to the second request")


@GROUP.check("refused-pipelined", Level.MUST, "RFC 9110 §7.8")
def refused_pipelined(server: Subject) -> None:
    """
    In one segment: an upgrade to an unknown token, and a HEAD; when the first is answered, an upgrade
    to a known token.
    """
    expected = "an answer to the second request"
    with server.open() as wire:
        wire.send(server.upgrade(offer=[UNKNOWN]) + server.request(method="HEAD"))
        with stays_open(_first_answer(server, wire)):
            # A server that has lost the HEAD answers the next request, at once: nobody has to wait, and
            # perhaps longer than the server keeps an idle connection.
            wire.send(server.upgrade())
            response = wire.response("HEAD", expected)
    if response.status == SWITCHING:
        raise Broken(f"{response}, the answer to the third", expected)


@GROUP.check("refused-then-upgrade", Level.MUST, "RFC 9110 §7.8")
def refused_then_upgrade(server: Subject) -> None:
    """An upgrade to an unknown token; when it is answered, a known one on the same connection."""
    _switches_behind(server, server.upgrade(offer=[UNKNOWN]))


@GROUP.check("content-answered", Level.PEERS, "RFC 9110 §7.8")
def content_answered(server: Subject) -> None:
    """POSTs with content, and with Upgrade: an unknown token, and a known one."""
    for token in (UNKNOWN, server.token):
        request = server.upgrade(f"Content-Length: {len(_SAID)}", offer=[token], method="POST")
        with trying(f"Upgrade: {token}"), server.open() as wire:
            wire.send(request + _SAID)
            wire.response()


@GROUP.check("unknown-token-with-content", Level.MUST, "RFC 9112 §6.3")
def unknown_token_with_content(server: Subject) -> None:
    """
    A POST with Upgrade: an unknown token, whose content looks like a request; when it is answered, an
    upgrade on the same connection.
    """
    content = server.request(target="/probe-content")
    fields = (f"Content-Length: {len(content)}",)
    _switches_behind(server, server.upgrade(*fields, offer=[UNKNOWN], method="POST") + content)


@GROUP.check("unknown-token-with-chunks", Level.MUST, "RFC 9112 §7.1")
def unknown_token_with_chunks(server: Subject) -> None:
    """
    A POST with Upgrade: an unknown token, and chunked content; when it is answered, an upgrade on the
    same connection.
    """
    fields = ("Transfer-Encoding: chunked",)
    request = server.upgrade(*fields, offer=[UNKNOWN], method="POST")
    _switches_behind(server, request + chunked(b"some content"))


def _switches_behind(server: Subject, request: bytes) -> None:
    with server.open() as wire:
        wire.send(request)
        with stays_open(_first_answer(server, wire)):
            wire.send(server.upgrade())
            server.switched(wire)
        server.talks(wire)


def _first_answer(server: Subject, wire: Wire) -> Response:
    """The answer to a request that does not switch, unless the server closes the connection instead."""
    try:
        return server.refused(wire)
    except Closed:
        raise Skipped("the server closes the connection without an answer") from None
