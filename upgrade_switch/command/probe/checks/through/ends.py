"""How a switched connection ends."""

from __future__ import annotations

import time
from contextlib import suppress

from ...passage import CLIENT, FAR_SIDE, Passage
from ...wire import Broken, Closed, Silent, Wire
from ..check import Group, Level, Skipped
from ..steps import idle_seconds
from .passing import early, through

__all__ = ["GROUP"]

GROUP = Group("Ends: of one side, and of the other")

# It is written about CONNECT; an upgrade's tunnel has no other rule.
_SECTION = "RFC 9110 §9.3.6"
_SAID = b"sixteen bytes..."
_MANY = bytes(range(256)) * 400


@through(GROUP, "end-of-client", Level.MUST, _SECTION)
def end_of_the_client(proxy: Passage) -> None:
    """100 KB from the client, 16 bytes more, and its end of the connection."""
    with proxy.tunnel() as (near, far):
        with near:
            with proxy.sending(near, proxy.up(_MANY)):
                proxy.far_hears(far, _MANY)
            near.send(proxy.up(_SAID))
        proxy.far_hears(far, _SAID)
        _is_over(far, FAR_SIDE)


@through(GROUP, "end-of-far-side", Level.MUST, _SECTION)
def end_of_the_far_side(proxy: Passage) -> None:
    """100 KB from the far side, 16 bytes more, and its end of the connection."""
    with proxy.tunnel() as (near, far):
        with far:
            with proxy.sending(far, proxy.down(_MANY)):
                proxy.near_hears(near, _MANY)
            far.send(proxy.down(_SAID))
        proxy.near_hears(near, _SAID)
        _is_over(near, CLIENT)


@through(GROUP, "end-in-segment-of-101", Level.MUST, _SECTION)
def end_with_the_101(proxy: Passage) -> None:
    """16 bytes in the segment of the 101, and the far side's end right behind them."""
    with proxy.open() as near:
        near.send(proxy.upgrade())
        with proxy.upgrade_arrives(near) as far:
            far.send(proxy.switching(far.request) + proxy.down(_SAID))
        proxy.switched(near)
        proxy.near_hears(near, _SAID)
        _is_over(near, CLIENT)


@through(GROUP, "half-close-of-client", Level.PEERS, _SECTION)
def half_close_of_the_client(proxy: Passage) -> None:
    """The client's FIN, behind which the far side answers with 16 bytes."""
    _not_over_tls(proxy)
    with proxy.tunnel() as (near, far):
        near.send(proxy.up(_SAID))
        near.half_close()
        proxy.far_hears(far, _SAID)
        _ends(far, FAR_SIDE)
        far.send(proxy.down(_SAID))
        proxy.near_hears(near, _SAID)


@through(GROUP, "half-close-behind-request", Level.PEERS, _SECTION)
def half_close_behind_the_request(proxy: Passage) -> None:
    """An upgrade, 16 bytes and the client's FIN, then the 101, and 16 bytes from the far side."""
    _not_over_tls(proxy)
    with proxy.open() as near:
        near.send(proxy.upgrade() + proxy.up(_SAID))
        near.half_close()
        with early(proxy, near) as far:
            far.send(proxy.switching(far.request))
            proxy.switched(near)
            proxy.far_hears(far, _SAID)
            _ends(far, FAR_SIDE)
            far.send(proxy.down(_SAID))
            proxy.near_hears(near, _SAID)


@through(GROUP, "half-close-of-far-side", Level.PEERS, _SECTION)
def half_close_of_the_far_side(proxy: Passage) -> None:
    """The far side's FIN, behind which the client answers with 16 bytes."""
    _not_over_tls(proxy)
    with proxy.tunnel() as (near, far):
        far.send(proxy.down(_SAID))
        far.half_close()
        proxy.near_hears(near, _SAID)
        _ends(near, CLIENT)
        near.send(proxy.up(_SAID))
        proxy.far_hears(far, _SAID)


@through(GROUP, "reset-of-client-ends-far-side", Level.MUST, _SECTION)
def reset_of_the_client(proxy: Passage) -> None:
    """The client's reset behind the 101."""
    with proxy.tunnel() as (near, far):
        near.reset()
        _is_over(far, FAR_SIDE)


@through(GROUP, "reset-of-far-side-ends-client", Level.MUST, _SECTION)
def reset_of_the_far_side(proxy: Passage) -> None:
    """The far side's reset behind the 101."""
    with proxy.tunnel() as (near, far):
        far.reset()
        _is_over(near, CLIENT)


@through(GROUP, "reset-of-client-is-one", Level.PEERS, "RFC 9293 §3.5.2")
def reset_of_the_client_is_one(proxy: Passage) -> None:
    """The client's reset behind the 101, which is no clean end."""
    with proxy.tunnel() as (near, far):
        near.reset()
        _is_reset(far, FAR_SIDE)


@through(GROUP, "reset-of-far-side-is-one", Level.PEERS, "RFC 9293 §3.5.2")
def reset_of_the_far_side_is_one(proxy: Passage) -> None:
    """The far side's reset behind the 101, which is no clean end."""
    with proxy.tunnel() as (near, far):
        far.reset()
        _is_reset(near, CLIENT)


@through(GROUP, "idle", Level.PEERS, "RFC 9110 §7.8")
def idle(proxy: Passage) -> None:
    """Nothing, for as long as --slow says, and then 16 bytes each way."""
    seconds = idle_seconds(proxy)
    with proxy.tunnel() as (near, far):
        time.sleep(seconds)
        near.deadline = far.deadline = proxy.again().deadline
        near.send(proxy.up(_SAID))
        proxy.far_hears(far, _SAID)
        far.send(proxy.down(_SAID))
        proxy.near_hears(near, _SAID)


def _not_over_tls(proxy: Passage) -> None:
    if proxy.is_secure:
        raise Skipped("it is only for connections without TLS")


def _ends(wire: Wire, who: str) -> None:
    """Wait for a clean end."""
    expected = f"the end of the connection at {who}"
    data = wire.receive(expected)
    if data:
        raise Broken(f"{len(data)} bytes more", expected)


def _is_over(wire: Wire, who: str) -> None:
    """Wait for an end, clean or not."""
    with suppress(Closed):
        wire.rest(f"the end of the connection at {who}")


def _is_reset(wire: Wire, who: str) -> None:
    """Wait for a reset."""
    expected = f"a reset at {who}"
    try:
        wire.rest(expected)
    except Silent:
        raise
    except Closed:
        return
    raise Broken("a clean end", expected)
