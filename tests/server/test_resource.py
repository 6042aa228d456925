"""UpgradeResource: what it can be made of, its factories, and which token is chosen."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory, Protocol

from tests.kit.asking import Accepting, Broken, Shelf, client_of, is_http, kind_of, switches
from tests.kit.harness import (
    EchoTarget,
    Listening,
    Page,
    factory_of,
    field,
    site_of,
    status,
    upgrade_head,
)
from upgrade_switch import UpgradeResource, upgrade_required
from upgrade_switch.errors import InvalidToken, InvalidUpgrades, UpgradeError

# What it can be made of.


class CallableTarget(EchoTarget):
    """A protocol that could be mistaken for an acceptor."""

    def __call__(self, request: Any, token: Any) -> EchoTarget:
        return self


@pytest.mark.parametrize(
    "value",
    [
        EchoTarget,
        CallableTarget(),
        Protocol,
        EchoTarget(),
        Factory,
        factory_of(EchoTarget)[0].__class__,
        Page,
        Page(),
        [EchoTarget],
        {},
        None,
        True,
        "echo",
        b"echo",
        UpgradeResource({"x": print}),
    ],
    ids=kind_of,
)
def test_refused_values(value: Any) -> None:
    """What is neither a factory nor an acceptor is refused at once, by the token's name."""
    with pytest.raises(InvalidUpgrades, match="chat/2") as raised:
        UpgradeResource({"echo": print, "chat/2": value})
    assert isinstance(raised.value, TypeError)
    assert isinstance(raised.value, UpgradeError)


def test_refused_protocol_class_is_told_what_to_give() -> None:
    """Who gives a Protocol class, as one does, is told what to write in its place."""
    with pytest.raises(InvalidUpgrades, match=r"Factory\.forProtocol\(EchoTarget\)"):
        UpgradeResource({"echo": EchoTarget})  # type: ignore[dict-item]
    with pytest.raises(InvalidUpgrades, match="give an instance"):
        UpgradeResource({"echo": Factory})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "upgrades",
    [
        {},
        [("echo", print)],
        {"echo": print, "ECHO": print},
        {"a/1": print, "A/1": print},
        {b"a": print},
        {None: 1},
    ],
)
def test_refused_mappings(upgrades: Any) -> None:
    """Refused: no mapping, an empty one, one key in two cases, and keys that are not strings."""
    with pytest.raises(InvalidUpgrades):
        UpgradeResource(upgrades)


@pytest.mark.parametrize("key", ["", "a b", "a/", "a/b/c", "é", "a,b", "echo\r\nX-Evil: 1"])
def test_refused_tokens(key: str) -> None:
    """Neither a resource nor a 426 takes a text that is no token."""
    with pytest.raises(InvalidToken):
        UpgradeResource({key: print})
    with pytest.raises(InvalidToken):
        upgrade_required("echo", key)


def test_426_without_tokens() -> None:
    """A 426 names what to upgrade to (RFC 9110 §15.5.22)."""
    with pytest.raises(InvalidUpgrades):
        upgrade_required()


# Factories.


class Recording(Factory):
    """
    A factory that remembers what is done with it.

    :ivar result: what it builds; raised, where it is an exception.
    """

    noisy = False

    def __init__(self, result: Any = EchoTarget) -> None:
        self.events: list[Any] = []
        self.result = result

    def startFactory(self) -> None:
        self.events.append("start")
        if self.result == "start fails":
            raise Broken

    def stopFactory(self) -> None:
        self.events.append("stop")

    def buildProtocol(self, addr: Any) -> Any:
        self.events.append(addr.port)
        if self.result is Broken:
            raise Broken
        return self.result() if callable(self.result) else self.result


@pytest_twisted.ensureDeferred
async def test_factory_lives_with_the_site() -> None:
    """A factory is started before its first protocol, once, and stopped when its site is."""
    factory, unused = Recording(), Recording()
    site = site_of({"a": factory, "b": factory, "c": unused})
    site.resource.putChild(b"v", UpgradeResource({"echo": factory}))
    events = []
    for _ in range(2):
        listening = await Listening("tcp", site).start()
        try:
            events.append("start")
            for request in (upgrade_head(b"b"), upgrade_head(b"a"), upgrade_head(path=b"/v")):
                client = await client_of(listening)
                await switches(client, request)
                events.append(client.transport.getHost().port)
                assert factory.events == events
        finally:
            await listening.stop()
        events.append("stop")
        assert factory.events == events
    assert unused.events == []


@pytest_twisted.ensureDeferred
async def test_factory_of_two_sites(listen: Any) -> None:
    """A factory that two sites share stops with the last of them, as one on two ports does."""
    factory = Recording()
    client = await client_of(await listen("tcp", site_of({"echo": factory})))
    await switches(client)
    other = await Listening("tcp", site_of({"echo": factory})).start()
    await switches(await client_of(other))
    await other.stop()
    assert "stop" not in factory.events
    client.site.stopFactory()
    assert factory.events[-1] == "stop"
    assert factory.events.count("start") == 1


@pytest.mark.parametrize(
    ("result", "code", "logged"),
    [
        (None, 503, 0),
        (Broken, 500, 1),
        (b"nonsense", 500, 1),
        (Factory, 500, 1),
        ("start fails", 500, 1),
    ],
)
@pytest_twisted.ensureDeferred
async def test_factory_that_builds_no_protocol(
    serve: Any, errors: Any, result: Any, code: int, logged: int
) -> None:
    """None declines with 503; a factory that fails is a 500 and one log entry; HTTP goes on."""
    factory = Recording(result)
    client = await serve({"echo": factory})
    for _ in range(2):
        client.send(upgrade_head())
        head, _ = await client.response()
        assert status(head) == code
        assert (field(head, b"retry-after") is not None) is (code == 503)
        errors.take(logged)
        await is_http(client)
    # A start that failed is tried again.
    assert factory.events.count("start") == (2 if result == "start fails" else 1)


# Which token, and nothing of them.


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (b"echo, chat/2", "echo echo"),
        (b"chat/2, echo", "chat/2 chat/2"),
        (b"CHAT/1, chat/2, echo", "chat CHAT/1"),
        (b"x, y/2, ECHO/7", "echo ECHO/7"),
        (b"chat", "chat chat"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_choice(serve: Any, offered: bytes, chosen: str) -> None:
    """The client's order decides among known tokens, and the exact version wins over the name."""

    def acceptor(key: str) -> Any:
        def accept(request: Any, token: Any) -> IProtocol:
            request.setHeader(b"x-chosen", f"{key} {token}".encode())
            return EchoTarget()

        return accept

    client = await serve({key: acceptor(key) for key in ("chat", "echo", "chat/2")})
    head = await switches(client, upgrade_head(offered))
    assert field(head, b"x-chosen") == chosen.encode()
    assert field(head, b"upgrade") == chosen.partition(" ")[2].encode()


@pytest_twisted.ensureDeferred
async def test_first_known_token_decides_for_all(serve: Any) -> None:
    """When the first known token's acceptor declines, the second one's is not asked."""
    second = Accepting()
    client = await serve({"second": second, "first": lambda request, token: Shelf()})
    client.send(upgrade_head(b"unknown, first, second"))
    assert status((await client.response())[0]) == 403
    assert second.tokens == []


@pytest.mark.parametrize(
    "fields", [b"", b"Connection: Upgrade\r\nUpgrade: x\r\n", b"Upgrade: echo\r\n"]
)
@pytest_twisted.ensureDeferred
async def test_fallback(serve: Any, fields: bytes) -> None:
    """A request with nothing known gets the fallback, found with its children, body intact."""
    shelf = Shelf()
    shelf.putChild(b"page", Page())
    client = await serve(UpgradeResource({"echo": Accepting()}, shelf))
    for path, answer in ((b"", b"of u"), (b"/a/b", b"a b of u a b")):
        client.send(b"GET /u" + path + b" HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n")
        assert (await client.response())[1] == answer
    client.send(
        b"POST /u/page HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n" + fields + b"\r\nGET "
    )
    assert (await client.response())[1] == b"page POST GET "
    await switches(client)


@pytest_twisted.ensureDeferred
async def test_fallback_is_an_upgrade_resource(serve: Any) -> None:
    """Upgrade resources fall back on one another."""
    inner = UpgradeResource({"inner": Accepting()})
    outer = UpgradeResource({"outer": lambda request, token: Shelf()}, inner)
    client = await serve(outer)
    client.send(upgrade_head(b"x"))
    assert field((await client.response())[0], b"upgrade") == b"inner"
    client.send(upgrade_head(b"inner, outer"))
    assert status((await client.response())[0]) == 403
    await switches(client, upgrade_head(b"inner"))


@pytest_twisted.ensureDeferred
async def test_426_lists_tokens_in_the_mappings_order(serve: Any) -> None:
    """Without a fallback, nothing known is a 426 with the keys, in their order and spelling."""
    client = await serve({key: Accepting() for key in ("Zed", "a/1", "b", "A/2")})
    client.send(upgrade_head(b"other"))
    head, _ = await client.response()
    assert (status(head), field(head, b"upgrade")) == (426, b"Zed, a/1, b, A/2")
