"""
Connections that begin with a preface: who gets the bytes, theirs and everybody else's.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.web.resource import Resource

from tests.kit.asking import PAGE, TRAILING, Accepting, client_of, echoes, fields_of, is_http, switches
from tests.kit.harness import (
    KINDS,
    EchoTarget,
    Recorder,
    factory_of,
    site_of,
    status,
    turns,
    upgrade_head,
)
from tests.kit.prefaced import FLAG, HTTP2, REST, every_kind, leave, prefaced, receiver, send_in, splits
from upgrade_switch import UpgradeResource

POST = b"POST /page HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nPRI "
PUT = (
    b"PUT /page HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"7\r\nHELLO\r\n\r\n0\r\n\r\n"
)


async def reaches(listening: Any, pieces: list[bytes], targets: list[Any]) -> None:
    """What a new client sends in these pieces goes to a target of its own, all of it and once."""
    targets.clear()
    client = await client_of(listening)
    await send_in(client, pieces, targets)
    data = b"".join(pieces)
    await client.receives(data)
    (target,) = targets
    assert target.data == client.data == data, pieces
    assert target.events[0] == "made"
    assert receiver(target) is target
    await leave(client, target)


# What begins with a preface.


@pytest.mark.parametrize(
    "preface",
    [b"SSH-2.0-", FLAG, HTTP2, b"GET /raw", b"G", b"\x00\x01\r\n\xff", b"\r\n", b"x" * 30],
)
@every_kind
@pytest_twisted.ensureDeferred
async def test_every_split(listen: Any, kind: str, preface: bytes) -> None:
    """
    Wherever a preface and what follows it are cut, every byte reaches the target, once and in order; no
    request is made of them.
    """
    listening, targets = await prefaced(listen, kind, preface)
    for pieces in splits(preface + REST):
        await reaches(listening, pieces, targets)
    assert listening.site.requests == []
    assert listening.site.lines == []


@every_kind
@pytest_twisted.ensureDeferred
async def test_nothing_behind(listen: Any, kind: str) -> None:
    """A preface alone is enough: the target need not wait for anything else."""
    listening, targets = await prefaced(listen, kind, b"SSH-2.0-")
    for pieces in splits(b"SSH-2.0-"):
        await reaches(listening, pieces, targets)


@every_kind
@pytest_twisted.ensureDeferred
async def test_much_behind(listen: Any, kind: str) -> None:
    """A megabyte in one go with the preface arrives, whole."""
    listening, targets = await prefaced(listen, kind, b"SSH-2.0-")
    client = await client_of(listening)
    data = b"SSH-2.0-" + bytes(range(256)) * 4096
    client.send(data)
    await client.until(lambda: client.amount >= len(data))
    assert client.data == data
    await echoes_on(client, targets)


async def echoes_on(client: Any, targets: list[Any]) -> None:
    """The connection is still its one target's."""
    client.data = b""
    await echoes(client)
    assert len(targets) == 1


@every_kind
@pytest_twisted.ensureDeferred
async def test_each_to_its_own(listen: Any, kind: str) -> None:
    """Several prefaces lead to several factories, on one port with HTTP."""
    first, firsts = factory_of(EchoTarget)
    second, seconds = factory_of(EchoTarget)
    listening = await listen(kind, site_of(Resource(), prefaces={b"SSH-2.0-": first, FLAG: second}))
    one, two, web = [await client_of(listening) for _ in range(3)]
    await echoes(two, FLAG + REST)
    await echoes(one, b"SSH-2.0-x\r\n")
    await is_http(web)
    assert [target.data for target in firsts] == [b"SSH-2.0-x\r\n"]
    assert [target.data for target in seconds] == [FLAG + REST]
    await is_http(web)


@every_kind
@pytest_twisted.ensureDeferred
async def test_one_begins_the_other(listen: Any, kind: str) -> None:
    """
    Where one preface begins another, the longer wins when it comes; when something else does, in any
    segments, the longest that is complete has the connection.
    """
    made = {preface: factory_of(EchoTarget) for preface in (b"HEL", b"HELLO", b"HELLO\r\n", b"G")}
    made[b"GET /raw"] = factory_of(EchoTarget)
    prefaces = {preface: factory for preface, (factory, _) in made.items()}
    listening = await listen(kind, site_of(Resource(), prefaces=prefaces))
    for data, preface in {
        b"HELLO\r\nmore": b"HELLO\r\n",
        b"HELLO\rmore": b"HELLO",
        b"HELLO, World": b"HELLO",
        b"HELP me": b"HEL",
        b"HELL\r\n": b"HEL",
        b"GET /raw HTTP/1.1\r\n": b"GET /raw",
        b"GET /page HTTP/1.1\r\n\r\n": b"G",
        b"GO": b"G",
    }.items():
        for pieces in splits(data):
            await reaches(listening, pieces, made[preface][1])
            made[preface][1].clear()
            assert [targets for _, targets in made.values()] == [[]] * len(made), pieces


@pytest_twisted.ensureDeferred
async def test_beginning_of_a_longer_one_waits(listen: Any) -> None:
    """A complete preface that may become a longer one is nobody's yet."""
    listening, targets = await prefaced(listen, "tcp", b"HEL", b"HELLO")
    client = await client_of(listening)
    await send_in(client, [b"HEL", b"L"], targets)
    await turns()
    assert targets == []
    client.send(b"O")
    await client.receives(b"HELLO")
    assert len(targets) == 1


# What does not.


#: Each of them, and all of them at once; where the bytes come from, all of them at once must do.
ALIKE = (HTTP2, b"GET /raw", b"POST /raw", b"PUT /page HTTP/1.1\r\nHost: other", b"P\x00")
PREFACES_OF_KINDS = [
    *((kind, (preface,)) for kind in ("tcp", "memory") for preface in ALIKE),
    *((kind, ALIKE) for kind in KINDS),
]


@pytest.mark.parametrize(("kind", "prefaces"), PREFACES_OF_KINDS)
@pytest.mark.parametrize("request_", [PAGE, POST, PUT], ids=["GET", "POST", "PUT"])
@pytest_twisted.ensureDeferred
async def test_like_a_preface_at_first(
    listen: Any, kind: str, request_: bytes, prefaces: tuple[bytes, ...]
) -> None:
    """
    A request whose first bytes are a preface's, too, is answered as by a site that has none, wherever
    it is cut.
    """
    plain = await client_of(await listen(kind, site_of(Resource())))
    plain.send(request_)
    expected = await plain.response()
    listening, targets = await prefaced(listen, kind, *prefaces)
    for pieces in splits(request_):
        client = await client_of(listening)
        await send_in(client, pieces, targets)
        head, body = await client.response()
        assert status(head) == status(expected[0]) == 200, pieces
        assert fields_of(head) == fields_of(expected[0]), pieces
        assert body == expected[1], pieces
        await is_http(client)
        await leave(client)
    assert targets == []


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_pipeline(listen: Any, kind: str) -> None:
    """Requests in a row are answered in a row, wherever they are cut, an upgrade behind them too."""
    factory, targets = factory_of(EchoTarget)
    prefaces = dict.fromkeys([HTTP2, b"GET /raw", FLAG, b"SSH-2.0-"], factory)
    site = site_of(UpgradeResource({"echo": Accepting()}), prefaces=prefaces)
    listening = await listen(kind, site)
    stream = PAGE + POST + PAGE + PUT + PAGE + upgrade_head()
    switched: list[Any] = []
    for pieces in splits(stream):
        client = await client_of(listening)
        await send_in(client, pieces, switched)
        bodies = [(await client.response())[1] for _ in range(5)]
        assert bodies == [
            b"page GET ",
            b"page POST PRI ",
            b"page GET ",
            b"page PUT HELLO\r\n",
            b"page GET ",
        ]
        assert status(await client.head()) == 101
        await echoes(client, FLAG + TRAILING)
        await leave(client)
    assert targets == []


@pytest.mark.parametrize(
    "first", [b"\r\n", b"X", b"hello\r\n", b" HELLO\r\n", b"HELLO \r\n", b"\x16\x03"]
)
@pytest_twisted.ensureDeferred
async def test_no_preface_and_no_http(listen: Any, first: bytes) -> None:
    """What is neither is answered as without prefaces, byte for byte."""
    answers = []
    for prefaces in ([], [FLAG, b"SSH-2.0-"]):
        listening, targets = await prefaced(listen, "tcp", *prefaces)
        client = await client_of(listening)
        client.send(first + b"\r\n\r\nGET / HTTP/1.0\r\n\r\n")
        await client.is_lost()
        answers.append([line for line in client.data.split(b"\r\n") if b"Date:" not in line])
        assert targets == []
    assert answers[0] == answers[1]


@every_kind
@pytest_twisted.ensureDeferred
async def test_upgrade_beside_prefaces(listen: Any, kind: str) -> None:
    """On a site with prefaces, requests switch as on any."""
    factory, targets = factory_of(EchoTarget)
    upgraded, upgrades = factory_of(EchoTarget)
    site = site_of({"echo": upgraded}, prefaces={b"GET /raw": factory, FLAG: factory})
    client = await client_of(await listen(kind, site))
    await switches(client)
    await echoes(client, FLAG + REST)
    assert (len(upgrades), targets) == (1, [])


@pytest_twisted.ensureDeferred
async def test_site_without_prefaces(listen: Any) -> None:
    """Without prefaces, or with an empty mapping of them, nothing is looked at."""
    for prefaces in (None, {}):
        listening = await listen("tcp", site_of(Resource(), prefaces=prefaces))
        client: Recorder = await client_of(listening)
        await is_http(client)
        client.send(FLAG + b"\r\n")
        await client.is_lost()
        assert client.data.startswith(b"HTTP/1.1 400 ")
