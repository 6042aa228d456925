"""
``upgrade-switch serve`` in operation: how it ends, what it logs.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .commands import LOCAL, fails, read_all, read_until
from .harness import status, upgrade_head
from .operating import SERVERS, connected, operated, upgraded

MODULE = """
import os
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from upgrade_switch import IDrainable, UpgradeResource
from zope.interface import implementer


@implementer(IDrainable)
class Polite(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)

    def drain(self):
        self.transport.write(b"goodbye")
        self.transport.loseConnection()


class Rude(Polite):
    def drain(self):
        pass


def undecided(request, token):
    os.write(int(os.environ["TOLD"]), b"!")
    return Deferred()


def failing(request, token):
    raise RuntimeError("not today")


class Things(UpgradeResource):
    def __init__(self):
        factories = [Factory.forProtocol(Polite), Factory.forProtocol(Rude)]
        super().__init__({
            "polite": factories[0], "rude": factories[1], "undecided": undecided, "failing": failing,
        })
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that Python finds, with targets that say goodbye and others."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "things.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """A pipe by which a server tells that it has not decided yet: where to read, and to write."""
    reading, writing = os.pipe()
    monkeypatch.setenv("TOLD", str(writing))
    yield reading, writing
    os.close(reading)
    os.close(writing)


def undecided(url: str, told: tuple[int, int]) -> socket.socket:
    """A client about whom the server has not decided yet."""
    client = connected(url)
    client.sendall(upgrade_head(b"undecided", path=b"/things"))
    assert os.read(told[0], 1) == b"!"
    return client


def name_of(client: socket.socket) -> str:
    """What a client is called in the log."""
    host, port = client.getsockname()
    return f"{host}:{port}"


def refuses(url: str) -> bool:
    """Whether nobody listens there any more."""
    try:
        connected(url).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("seconds", [1, 0])
@pytest.mark.parametrize("kind", SERVERS)
def test_sigterm(kind: str, seconds: int, told: tuple[int, int]) -> None:
    """
    SIGTERM with twenty switched connections: who says goodbye does, who does not is aborted when the
    time is over, who waits for a decision gets 503, nobody is let in, and the exit code is 0. The log
    has each connection's switch and its end.
    """
    options = ["--class", "/things things.Things", "--drain", str(seconds)]
    with ExitStack() as stack, operated(kind, *options, pass_fds=[told[1]]) as server:
        polite = [stack.enter_context(upgraded(server.url, "/things", "polite")) for _ in range(19)]
        rude = stack.enter_context(upgraded(server.url, "/things", "rude"))
        waiting = stack.enter_context(undecided(server.url, told))
        names = [name_of(client) for client in (*polite, rude)]
        server.terminate()
        assert status(read_until(waiting, b"\r\n\r\n")) == 503
        assert refuses(server.url)
        goodbyes = [read_all(client) for client in polite]
        if seconds:
            assert goodbyes == [b"goodbye"] * 19
        with pytest.raises(ConnectionResetError):
            rude.recv(1)
        events = server.finishes()
    told_of = Counter((event["event"], event["token"], event["peer"]) for event in events)
    assert told_of == Counter(
        (event, token, name)
        for event in ("switched", "ended")
        for token, name in zip(["polite"] * 19 + ["rude"], names, strict=True)
    )
    (end,) = (e for e in events if (e["event"], e["token"]) == ("ended", "rude"))
    assert end["why"] == "aborted"
    assert end["seconds"] >= seconds
    if seconds:
        ends = {e["why"] for e in events if (e["event"], e["token"]) == ("ended", "polite")}
        assert ends == {"closed"}


@pytest.mark.parametrize("kind", SERVERS)
def test_last_one_out(kind: str) -> None:
    """Nobody is let in while it drains; it ends as soon as the last connection does."""
    with operated(kind, "--class", "/things things.Things", "--drain", "600") as server:
        with (
            upgraded(server.url, "/things", "rude") as rude,
            upgraded(server.url, "/things", "polite") as polite,
        ):
            server.terminate()
            assert read_all(polite) == b"goodbye"
            assert refuses(server.url)
            rude.sendall(b"hello")
            assert read_until(rude, b"hello") == b"hello"
        events = server.finishes()
    assert [event["event"] for event in events].count("ended") == 2


@pytest.mark.parametrize("seconds", ["", "-1", "soon", "nan", "inf", "1e999"])
def test_drain_values(seconds: str) -> None:
    """``--drain`` wants a number of seconds, or says so: one line, exit code 2."""
    assert "--drain" in fails(2, "serve", "--listen", LOCAL, "--drain", seconds)
