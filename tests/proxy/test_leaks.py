"""What is left of requests, upgrades and failures: nothing, without the garbage collector."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

import pytest
import pytest_twisted

from tests.kit.backed import ASK, CHUNKED, GET, OK, SWITCH, Proxied, post
from tests.kit.crowds import room_for
from tests.kit.harness import eventually
from tests.kit.polled import readers

#: Clients that are switched at the same time: far more than the ten of which some may still be there.
CROWD = 100
#: On sockets, as many as a busy server has.
MANY = 1000


def census() -> Counter[str]:
    """How many objects there are of the classes that matter."""
    names: Counter[str] = Counter()
    for each in gc.get_objects():
        kind = type(each)
        module = getattr(kind, "__module__", "")
        # (The wires of this test are cycles.)
        if (
            isinstance(module, str)
            and module.startswith(("upgrade_switch", "twisted.web", "h11"))
            and not module.startswith("upgrade_switch.testing")
        ):
            names[f"{module}.{kind.__name__}"] += 1
    return names


def answered(proxied: Proxied) -> Any:
    client = proxied.client(GET)
    proxied.back.last.answer(OK)
    return client


def uploaded(proxied: Proxied) -> Any:
    client = proxied.client(post(5) + b"he")
    client.send(b"llo")
    proxied.back.last.answer(OK)
    return client


def in_chunks(proxied: Proxied) -> Any:
    client = proxied.client(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n")
    proxied.back.last.answer(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"0\r\n\r\n"
    )
    return client


def switched(proxied: Proxied) -> Any:
    client = proxied.client(ASK + b"early")
    proxied.back.last.answer(SWITCH + b"hello").reset()
    return client


def declined(proxied: Proxied) -> Any:
    client = proxied.client(ASK)
    proxied.back.last.answer(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
    return client


def wrong_101(proxied: Proxied) -> Any:
    client = proxied.client(ASK)
    proxied.back.last.answer(b"HTTP/1.1 101 Go\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n")
    return client


def bad_426(proxied: Proxied) -> Any:
    client = proxied.client(GET)
    proxied.back.last.answer(b"HTTP/1.1 426 No\r\nContent-Length: 0\r\n\r\n")
    return client


def broken(proxied: Proxied) -> Any:
    client = proxied.client(GET)
    proxied.back.last.answer(b"hello\r\n\r\n")
    return client


def refused(proxied: Proxied) -> Any:
    proxied.back.is_there = False
    client = proxied.client(ASK)
    proxied.back.is_there = True
    return client


def dead(proxied: Proxied) -> Any:
    client = proxied.client(post(9) + b"abc")
    proxied.back.last.reset()
    return client


def dead_in_body(proxied: Proxied) -> Any:
    client = proxied.client(GET)
    proxied.back.last.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello").reset()
    return client


def dead_in_endless_body(proxied: Proxied) -> Any:
    client = proxied.client(GET.replace(b"1.1", b"1.0"))
    proxied.back.last.answer(b"HTTP/1.1 200 OK\r\n\r\nhello").reset()
    return client


def retried(proxied: Proxied) -> Any:
    proxied.client(GET).wire.client.loseConnection()
    proxied.back.last.answer(OK)
    client = proxied.client(GET)
    proxied.back.last.close()
    proxied.back.last.answer(OK)
    return client


def early(proxied: Proxied) -> Any:
    client = proxied.client(post(100_000) + b"abc")
    proxied.back.last.answer(OK)
    return client


def too_long(proxied: Proxied) -> Any:
    return proxied.client(CHUNKED + b"b\r\nhellohello!\r\n")


def broken_content(proxied: Proxied) -> Any:
    return proxied.client(CHUNKED + b"b\r\nhe")


def cut_off_by_timeout(proxied: Proxied) -> Any:
    client = proxied.client(GET)
    proxied.back.last.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
    proxied.net.advance(61)
    return client


def stuck(proxied: Proxied) -> Any:
    client = proxied.client(GET)
    client.wire.client.pauseProducing()
    proxied.back.last.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + b"x" * 500_000)
    proxied.net.advance(1)
    proxied.net.advance(61)
    return client


def timed_out(proxied: Proxied) -> Any:
    client = proxied.client(GET)
    proxied.net.advance(61)
    return client


def left_connecting(proxied: Proxied) -> Any:
    proxied.back.is_silent = True
    client = proxied.client(GET)
    client.wire.client.abortConnection()
    proxied.net.pump()
    proxied.back.is_silent = False
    return client


def left_waiting(proxied: Proxied) -> Any:
    return proxied.client(ASK)


def left_answering(proxied: Proxied) -> Any:
    client = proxied.client(GET)
    proxied.back.last.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
    return client


def awaiting_continue(proxied: Proxied) -> Any:
    client = proxied.client(post(9, b"Expect: 100-continue\r\n"))
    proxied.back.last.answer(b"HTTP/1.1 100 Continue\r\n\r\n")
    return client


WAYS = (
    answered,
    uploaded,
    in_chunks,
    switched,
    declined,
    wrong_101,
    bad_426,
    broken,
    refused,
    dead,
    dead_in_body,
    dead_in_endless_body,
    retried,
    early,
    too_long,
    broken_content,
    cut_off_by_timeout,
    stuck,
    timed_out,
    left_connecting,
    left_waiting,
    left_answering,
    awaiting_continue,
)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left(way: Any, no_gc: None) -> None:
    """However a request ends, reference counting alone frees it, and no timer is left."""
    proxied = Proxied(max_body=None if way is early else 10)

    def go() -> None:
        client = way(proxied)
        client.wire.client.abortConnection()
        proxied.net.pump()
        # The pool's connections, and what waits for clients that do not close.
        proxied.net.advance(100)
        proxied.net.pump()
        proxied.back.accepted.clear()
        assert proxied.is_idle()
        proxied.site.channels.clear()
        proxied.site.requests.clear()

    for _ in range(3):
        go()
    timers = len(proxied.net.getDelayedCalls())
    before = census()
    for _ in range(20):
        go()
    grown = {name: count for name, count in (census() - before).items() if count >= 10}
    assert not grown
    assert len(proxied.net.getDelayedCalls()) <= timers


def test_a_crowd_whose_back_end_dies(no_gc: None) -> None:
    """Of many spliced connections nothing is left when their back end is killed."""
    proxied = Proxied()
    before = census()
    clients = []
    for number in range(CROWD):
        clients.append(proxied.client(ASK))
        proxied.back.last.answer(SWITCH + b"%d" % number)
    assert len(proxied.site.switched) == proxied.active() == CROWD
    assert all(client.received.endswith(b"\r\n\r\n%d" % n) for n, client in enumerate(clients))
    for number, back in enumerate(proxied.back.accepted):
        getattr(back.wire.server, "abortConnection" if number % 2 else "loseConnection")()
    proxied.net.advance(1)
    proxied.net.pump()
    for client in clients:
        client.wire.client.loseConnection()
    proxied.net.advance(100)
    proxied.net.pump()
    assert all(client.is_over for client in clients)
    assert proxied.is_idle()
    del client, back
    clients.clear()
    proxied.back.accepted.clear()
    proxied.site.channels.clear()
    proxied.site.requests.clear()
    grown = {name: count for name, count in (census() - before).items() if count >= 10}
    assert not grown


@pytest_twisted.ensureDeferred
async def test_a_crowd_on_ports(live: Any) -> None:
    """The same on sockets, of which none stays open."""
    running = await live("tcp", "tcp")
    sockets = len(readers())
    before = census()
    with room_for(4 * MANY):
        clients = []
        for _ in range(MANY):
            client = await running.client(ASK)
            peer, _head = await running.server.asked()
            peer.send(SWITCH)
            await client.head()
            clients.append(client)
        assert len(running.front.site.switched) == running.back_end.active == MANY
        for peer in running.server.site.built:
            peer.transport.abortConnection()
        for client in clients:
            await client.is_lost()
        await eventually(lambda: not running.back_end.active and not running.front.site.switched)
    assert len(readers()) <= sockets
    del client, peer
    clients.clear()
    running.front.clients.clear()
    running.server.site.built.clear()
    running.front.site.channels.clear()
    running.front.site.requests.clear()
    # Twisted's connectors and their transports know one another.
    gc.collect()
    grown = {name: count for name, count in (census() - before).items() if count >= 10}
    assert not grown
