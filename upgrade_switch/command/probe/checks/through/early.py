"""Bytes of the new protocol: those that come with the request or the 101, and many."""

from __future__ import annotations

from ...conversation import closing
from ...frames import CLOSE, CONTINUATION, FINAL, PING, TEXT, frame
from ...passage import CLIENT, FAR_SIDE, Passage
from ...wire import Broken
from ..check import Group, Level
from .passing import early, only_websocket, through

__all__ = ["GROUP"]

GROUP = Group("Bytes: what is sent with the request, with the 101, and behind it")

_SECTION = "RFC 9110 §7.8"
_SAID = b"sixteen bytes..."
_LIKE_HTTP = b"GET / HTTP/1.1\r\nHost: inner\r\n\r\n"
_MANY = bytes(range(256)) * 400
# RFC 6455 §7.4.1.
_NORMAL = (1000).to_bytes(2, "big")
# Where the seam is cut: so many bytes of the head, and of what is behind it, stand around.
_AROUND = 5


@through(GROUP, "upgrade-passes", Level.PEERS, _SECTION, needs_upgrade=False)
def upgrade_passes(proxy: Passage) -> None:
    """
    A request for the token, which the far side answers with a 101.

    If this fails, the proxy has to be told to pass the upgrade: what needs one is skipped.
    """
    with proxy.tunnel():
        pass


@through(GROUP, "early-bytes-in-request", Level.MUST, _SECTION)
def in_the_request(proxy: Passage) -> None:
    """16 bytes of the new protocol in the segment of the request."""
    _with_the_request(proxy, _SAID)


@through(GROUP, "early-bytes-like-http", Level.MUST, _SECTION)
def like_http(proxy: Passage) -> None:
    """An HTTP request as bytes of the new protocol, in the segment of the request."""
    _with_the_request(proxy, _LIKE_HTTP)


@through(GROUP, "early-bytes-split-request", Level.MUST, _SECTION)
def split_request(proxy: Passage) -> None:
    """The request and 16 bytes of the new protocol in two segments, cut at each byte of the seam."""
    said = proxy.up(_SAID)
    for cut in range(-_AROUND, _AROUND + 1):
        with proxy.open() as near:
            sent = proxy.upgrade() + said
            at = len(sent) - len(said) + cut
            near.send_apart(sent[:at], sent[at:])
            with early(proxy, near) as far:
                far.send(proxy.switching(far.request))
                proxy.switched(near)
                proxy.far_hears(far, _SAID)


@through(GROUP, "early-bytes-many", Level.MUST, _SECTION)
def many_in_the_request(proxy: Passage) -> None:
    """100 KB of the new protocol right behind the request."""
    with (
        proxy.open() as near,
        proxy.sending(near, proxy.upgrade() + proxy.up(_MANY)),
        early(proxy, near) as far,
    ):
        far.send(proxy.switching(far.request))
        proxy.switched(near)
        proxy.far_hears(far, _MANY)


@through(GROUP, "early-bytes-in-101", Level.MUST, _SECTION)
def in_the_101(proxy: Passage) -> None:
    """16 bytes from the far side in the segment of its 101."""
    with proxy.asked() as (near, far):
        far.send(proxy.switching(far.request) + proxy.down(_SAID))
        proxy.switched(near)
        proxy.near_hears(near, _SAID)


@through(GROUP, "early-bytes-split-101", Level.MUST, _SECTION)
def split_101(proxy: Passage) -> None:
    """The far side's 101 and 16 bytes in two segments, cut at each byte of the seam."""
    said = proxy.down(_SAID)
    for cut in range(-_AROUND, _AROUND + 1):
        with proxy.asked() as (near, far):
            sent = proxy.switching(far.request) + said
            at = len(sent) - len(said) + cut
            far.send_apart(sent[:at], sent[at:])
            proxy.switched(near)
            proxy.near_hears(near, _SAID)


@through(GROUP, "many-bytes-up", Level.MUST, _SECTION)
def many_up(proxy: Passage) -> None:
    """100 KB from the client behind the 101."""
    with proxy.tunnel() as (near, far), proxy.sending(near, proxy.up(_MANY)):
        proxy.far_hears(far, _MANY)


@through(GROUP, "many-bytes-down", Level.MUST, _SECTION)
def many_down(proxy: Passage) -> None:
    """100 KB from the far side, in the segment of the 101 and behind it."""
    with proxy.open() as near:
        near.send(proxy.upgrade())
        with (
            proxy.upgrade_arrives(near) as far,
            proxy.sending(far, proxy.switching(far.request) + proxy.down(_MANY)),
        ):
            proxy.switched(near)
            proxy.near_hears(near, _MANY)


@through(GROUP, "words-in-turn", Level.MUST, _SECTION)
def in_turn(proxy: Passage) -> None:
    """Words in turn, from the client and from the far side, each waiting for the other's."""
    with proxy.tunnel() as (near, far):
        for number in range(8):
            word = b"%d" % number
            near.send(proxy.up(word))
            proxy.far_hears(far, word)
            far.send(proxy.down(word))
            proxy.near_hears(near, word)


@through(GROUP, "websocket-frames", Level.MUST, "RFC 6455 §5")
def frames(proxy: Passage) -> None:
    """From each side, a text in two frames, a ping between them, 70,000 bytes, and Close."""
    only_websocket(proxy)
    large = bytes(70_000)
    with proxy.tunnel() as (near, far):
        for sender, is_client, receiver, who in (
            (near, True, far, FAR_SIDE),
            (far, False, near, CLIENT),
        ):
            parts = [
                frame(b"one", is_client, TEXT),
                frame(b"", is_client, FINAL | PING),
                frame(b"two", is_client, FINAL | CONTINUATION),
                frame(large, is_client),
                frame(_NORMAL, is_client, FINAL | CLOSE),
            ]
            with proxy.sending(sender, b"".join(parts)):
                proxy.conversation.hear(receiver, b"onetwo" + large, who)
                if closing(receiver) != _NORMAL:
                    raise Broken(f"another Close frame at {who}", "the Close frame with 1000")


def _with_the_request(proxy: Passage, said: bytes) -> None:
    with proxy.open() as near:
        near.send(proxy.upgrade() + proxy.up(said))
        with early(proxy, near) as far:
            far.send(proxy.switching(far.request))
            proxy.switched(near)
            proxy.far_hears(far, said)
