"""For the tests of prefaces: clients that do not begin with HTTP, and bytes in known segments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.web.resource import Resource

from tests.kit.asking import client_of, is_http
from tests.kit.harness import (
    KINDS,
    EchoTarget,
    Listening,
    WatchedSite,
    eventually,
    factory_of,
    no_collector,
    site_of,
)
from upgrade_switch import _twisted

__all__ = ["eventually", "no_collector"]  # of the harness

#: A preface that is a whole line: a flag line.
FLAG = b"HELLO\r\n"

HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: What may follow a preface; looks like HTTP, like a flag line, and like neither.
REST = b"GET /page HTTP/1.1\r\n\r\n" + FLAG + b"\x00\xff\r\n"


def splits(data: bytes) -> Iterator[list[bytes]]:
    """Some bytes in one segment, in two at every position, and one by one."""
    yield [data]
    for cut in range(1, len(data)):
        yield [data[:cut], data[cut:]]
    yield [data[at : at + 1] for at in range(len(data))]


async def send_in(client: Any, pieces: Iterable[bytes], targets: list[Any], before: int = 0) -> None:
    """
    Send pieces, each when the server has read the one before: its channel has, or the target.

    :param before: how many bytes are HTTP's, in front of those that the target gets.
    """
    site = client.site
    site.received = sent = 0

    def has_come() -> bool:
        in_target = before + len(targets[-1].data) if targets else 0
        return max(site.received, in_target) >= sent

    for piece in pieces:
        client.send(piece)
        sent += len(piece)
        # The target may be built in the middle of it: either may be who has got the last of it.
        await eventually(has_come)


async def leave(client: Any, *targets: Any) -> None:
    """End a client's connection, and see it ended for the others."""
    client.transport.abortConnection()
    for protocol in (client, *targets):
        await protocol.is_lost()


async def prefaced(listen: Any, kind: str, *prefaces: bytes, **kwargs: Any) -> tuple[Any, list[Any]]:
    """
    A listening site on which these prefaces lead to EchoTargets.

    :return: it, and the list of the targets.
    """
    factory, targets = factory_of(EchoTarget)
    site = site_of(Resource(), prefaces=dict.fromkeys(prefaces, factory), **kwargs)
    return await listen(kind, site), targets


async def accepted(listening: Listening, client: Any = None) -> Any:
    """A client of a site, and not only of the kernel: its channel has been made."""
    before = len(listening.site.channels)
    client = await (client_of(listening) if client is None else listening.connect(client))
    await eventually(lambda: len(listening.site.channels) > before)
    return client


def timers(clock: Clock) -> list[Any]:
    """What waits on a site's clock, but for the date for its log."""
    return [call for call in clock.getDelayedCalls() if "_updateLogDateTime" not in str(call.func)]


def channel_is_gone(site: WatchedSite) -> bool:
    """Whether nothing refers to any channel of the site's any more."""
    return all(weak() is None for weak in site.channels)


def receiver(target: Any) -> Any:
    """Whom a target's transport gives its bytes to."""
    return _twisted.slot_of(target.transport).get()


every_kind = pytest.mark.parametrize("kind", KINDS)

#: In front of the flag line: nothing, or a request.
every_place = pytest.mark.parametrize("between", [False, True], ids=["first", "between"])


async def client_at(listening: Listening, between: bool) -> Any:
    """A client that says FLAG next: as its first bytes, or between two requests."""
    client = await accepted(listening)
    if between:
        await is_http(client)
    return client


async def is_closed(listening: Listening, client: Any, clock: Clock, before: int) -> None:
    """The client's connection is closed without a word, and nothing is left of it."""
    await client.is_lost()
    assert client.data == b""
    await eventually(lambda: not timers(clock))
    assert len(listening.site.switched) == 0
    assert len(listening.site.lines) == len(listening.site.requests) == before
