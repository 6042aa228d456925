"""
The code of docs/ runs, and does what the pages say.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.threads import deferToThread
from twisted.python.usage import UsageError

from tests.kit import ROOT
from tests.kit.certificate import CERTIFICATE_PEM
from tests.kit.commands import output_of
from tests.kit.documented import Block, blocks_of, environment, pages, read, sessions
from tests.kit.harness import (
    HalfCloseRecorder,
    Recorder,
    localhost,
    patient,
    reactor,
    status,
    upgrade_head,
)
from upgrade_switch import NotSwitched
from upgrade_switch.command.subcommands import MainOptions
from upgrade_switch.protocols import WebSocketEndpoint

__all__ = ["read"]  # a fixture

#: How many code blocks each page has. A new one needs a test: here, or in its neighbours.
KNOWN = {
    "howto/auth.md": {"python": 4, "console": 2},
    "howto/client.md": {"python": 4},
    "howto/connect.md": {"python": 1, "console": 4},
    "howto/from-autobahn.md": {"python": 2},
    "howto/from-stolen-transport.md": {"python": 3},
    "howto/from-twisted-web-websocket.md": {"python": 1},
    "howto/h2c.md": {"python": 1},
    "howto/http2.md": {"python": 2},
    "howto/haproxy.md": {"haproxy": 1, "python": 1, "console": 1},
    "howto/many-cores.md": {"console": 1},
    "howto/messages.md": {"python": 3},
    "howto/nginx.md": {"nginx": 1, "python": 1},
    "howto/prefaces.md": {"python": 2},
    "howto/server.md": {"python": 5},
    "howto/probe-proxies.md": {"console": 1, "text": 1},
    "howto/probe.md": {"console": 4, "text": 1, "json": 1},
    "howto/proxies.md": {"python": 7},
    "howto/proxy.md": {"python": 4},
    "howto/systemd.md": {"ini": 2},
    "howto/targets.md": {"text": 1, "console": 2, "python": 1},
    "howto/testing.md": {"python": 11},
    "howto/tls.md": {"console": 3, "python": 4},
    "howto/tunnels.md": {"console": 7, "python": 1, "toml": 1},
    "howto/udp.md": {"console": 3, "python": 2},
    "howto/websocket.md": {"python": 3},
    "index.md": {"console": 1},
    "operating.md": {"python": 4, "console": 6, "toml": 2},
    "reference/command.md": {"console": 1},
    "topics/conformance.md": {"console": 1},
    "topics/security.md": {"python": 1},
    "topics/architecture.md": {"text": 1},
    "tutorial.md": {"console": 12, "http": 2, "python": 7},
}


def test_every_block_is_known() -> None:
    """No code block of docs/ is without a test."""
    assert pages() == KNOWN


def commands() -> list[str]:
    """Every command line of docs/ that is this package's."""
    found = [
        session.command
        for page in pages()
        for block in blocks_of(page)
        if block.language == "console"
        for session in sessions(block.text)
    ]
    parts = [part.strip() for command in found for part in re.split(" [|>] ", command)]
    return [part for part in parts if part.startswith("upgrade-switch ")]


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_are_understood(command: str, read: Any) -> None:
    """Every upgrade-switch in docs/ has options that make sense to the command's own parser."""
    for page in pages():
        read(page).saves("toml")
    Path("passwords").touch()
    Path("public").mkdir()
    Path("cert.pem").write_bytes(CERTIFICATE_PEM)
    options = MainOptions()
    try:
        options.parseOptions(shlex.split(command)[1:])
    except UsageError as error:
        pytest.fail(f"{command}: {error}")


async def switched_at(port: int, path: bytes, token: bytes, fields: bytes = b"") -> Recorder:
    """A client that has asked for an upgrade, with ``hello`` behind the request."""
    client = await patient(connectProtocol(localhost(port), Recorder()))
    client.send(upgrade_head(token, path=path, fields=fields) + b"hello\r\n")
    return client


def test_install(read: Any) -> None:
    """What the front page installs is this package."""
    (block,) = read("index.md").blocks("console")
    ((command, answer),) = sessions(block.text)
    assert (command, answer) == ("pip install upgrade_switch", "")
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"] == "upgrade_switch"


@pytest_twisted.ensureDeferred
async def test_tutorial_site(read: Any) -> None:
    """The tutorial's first part: the site of make serve echoes, answers as shown, and refuses chess."""
    reader = read("tutorial.md")
    make, echo, chess = (sessions(block.text)[0] for block in reader.blocks("console")[:3])
    planned = subprocess.run(
        ["make", "-n", *make.command.split()[1:], "VENV=/nowhere"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    assert "/nowhere/bin/upgrade-switch serve" in planned.stdout
    listening = reader.text_of("upgrade-switch serve --listen tcp:8080:interface=127.0.0.1")
    with reader.serves(sessions(f"$ {listening}\n")[0]):
        await reader.types(echo)
        await reader.types(chess)
        request, answer = (block.text.replace("\n", "\r\n").encode() for block in reader.blocks("http"))
        client = await patient(connectProtocol(localhost(reader.port(8080)), HalfCloseRecorder()))
        client.send(request)
        await client.receives(b"\r\n\r\n")
        assert lines_of(client.data) == lines_of(answer)
        client.transport.abortConnection()
        await client.is_lost()


def lines_of(head: bytes) -> Counter[bytes]:
    """An HTTP head's lines; the server's name and the date are every answer's."""
    return Counter(
        line for line in head.split(b"\r\n") if line and not line.startswith((b"Server:", b"Date:"))
    )


@pytest_twisted.ensureDeferred
async def test_tutorial_protocol(read: Any) -> None:
    """
    The tutorial's own protocol: it shouts, the ordinary page is still there, and with half-closes an
    answer is not lost at the end of the input.
    """
    reader = read("tutorial.md")
    reader.saves("python")
    _make, _echo, _chess, run, shout, page, cut, whole = (
        sessions(block.text)[0] for block in reader.blocks("console")[:8]
    )
    assert run.command == "python server.py"
    first, *_, half_closing = (b for b in reader.blocks("python") if b.file == "shout.py")
    reader.saved("shout.py").write_text(first.text)
    reader.runs(0, 1)
    await reader.talks(shout)
    await reader.types(page)
    await reader.types(cut)
    await reader.stops()
    reader.saved("shout.py").write_text(half_closing.text)
    reader.runs(1)
    for _ in range(3):
        await reader.types(whole)


@pytest_twisted.ensureDeferred
async def test_tutorial_acceptor_client_and_test(read: Any) -> None:
    """The tutorial's acceptor decides, its client is told so, and its test passes."""
    reader = read("tutorial.md")
    reader.saves("python")
    refused, talking, clients, testing = (
        sessions(block.text) for block in reader.blocks("console")[8:]
    )
    reader.runs(0, 1, 2, 3, 4)
    await reader.types(refused[0])
    await reader.talks(talking[0])
    for session in clients:
        await reader.types(session)
    await reader.types(testing[0])


@pytest_twisted.ensureDeferred
async def test_auth(read: Any) -> None:
    """The guard's realm gives each user a protocol that knows them; a wrong password is a 401."""
    reader = read("howto/auth.md")
    (reader.folder / "passwords").write_text("ada:lovelace\n")
    reader.runs()
    line: Deferred[bytes] = Deferred()
    await patient(Deferred.fromCoroutine(reader.names["greet"]("ada", "lovelace", line)))
    assert await patient(line) == b"ada: hello"
    with pytest.raises(NotSwitched) as refused:
        await patient(Deferred.fromCoroutine(reader.names["greet"]("ada", "wrong", Deferred())))
    assert refused.value.response.code == 401
    line = Deferred()
    await patient(connectProtocol(reader.names["endpoint"], reader.names["Hello"](line)))
    assert await patient(line) == b"ada: hello"


@pytest_twisted.ensureDeferred
async def test_auth_acceptor(read: Any, listen: Any) -> None:
    """The acceptor decides by the session's cookie."""
    reader = read("howto/auth.md", sessions=KnownSessions())
    (reader.folder / "passwords").write_text("")
    reader.runs()
    reader.sites[0].resource.putChild(
        b"session", reader.names["UpgradeResource"]({"greet": reader.names["accept"]})
    )
    for cookie, expected in ((b"good", 101), (b"bad", 403)):
        fields = b"Cookie: session=" + cookie + b"\r\n"
        client = await switched_at(reader.port(8080), b"/session", b"greet", fields)
        assert status(await client.head()) == expected
        if expected == 101:
            await client.receives(b"ada: hello\r\n")
        client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_auth_command(read: Any) -> None:
    """The page's serve asks for a password, and the page's connect has one, or is refused."""
    reader = read("howto/auth.md")
    (reader.folder / "passwords").write_text("ada:lovelace\n")
    served, asked = (sessions(block.text) for block in reader.blocks("console"))
    with reader.serves(served[0]):
        for session in asked:
            await reader.types(session)


class KnownSessions:
    """The page leaves them to its reader."""

    async def user_of(self, cookie: bytes | None) -> bytes | None:
        return b"ada" if cookie == b"good" else None


@pytest_twisted.ensureDeferred
async def test_tls(read: Any) -> None:
    """The page's certificate, sites and clients, from the first byte and by upgrade, work together."""
    reader = read("howto/tls.md")
    make, serve, connect = (sessions(block.text)[0] for block in reader.blocks("console"))
    # openssl tells of its progress.
    await output_of("bash", "-c", f"cd {shlex.quote(str(reader.folder))} && {make.command}")
    reader.runs()
    client = await patient(connectProtocol(reader.names["endpoint"], HalfCloseRecorder()))
    client.send(b"hello")
    await client.receives(b"hello")
    client.transport.abortConnection()
    assert await patient(Deferred.fromCoroutine(reader.names["fetch"]())) == "inside TLS\n"
    url = f"http://127.0.0.1:{reader.port(8631)}/private"
    clear = await patient(treq.get(url, persistent=False))
    assert clear.code == 426
    await clear.text()
    await reader.names["securing"].closeCachedConnections()
    with reader.serves(serve):
        await reader.talks(connect)


@pytest_twisted.ensureDeferred
async def test_testing(read: Any) -> None:
    """The page's tests pass; without what they test, they fail."""
    reader = read("howto/testing.md")
    reader.saves("python")
    tests = "".join(block.text for block in reader.blocks("python")[1:])
    line_receiver = "from twisted.protocols.basic import LineOnlyReceiver\n"
    (reader.folder / "test_rooms.py").write_text(line_receiver + tests)
    assert (await run_tests(reader.folder)).endswith(" passed")
    rooms = reader.saved("rooms.py")
    rooms.write_text(rooms.read_text().replace('b"kitchen"', 'b"cellar"'))
    assert " failed, " in await run_tests(reader.folder)


async def run_tests(folder: Path) -> str:
    """What pytest says last of a folder's tests."""
    done = await deferToThread(
        subprocess.run,
        [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", folder],
        cwd=folder,
        env=environment(),
        capture_output=True,
        check=False,
        timeout=60,
        text=True,
    )
    return re.sub(r" in [\d.]+s.*", "", done.stdout.splitlines()[-1])


@pytest_twisted.ensureDeferred
async def test_from_autobahn(read: Any) -> None:
    """Both servers echo messages; the one on the switch gets a frame of the request's own segment."""
    reader = read("howto/from-autobahn.md")
    reader.runs()
    for named in (8080, 8081):
        endpoint = WebSocketEndpoint(reactor, f"ws://127.0.0.1:{reader.port(named)}/ws")
        client = await patient(connectProtocol(endpoint, Recorder()))
        client.send(b"hello")
        await client.receives(b"hello")
        client.transport.loseConnection()
        await client.is_lost()
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    client = await patient(connectProtocol(localhost(reader.port(8081)), HalfCloseRecorder()))
    client.send(upgrade_head(b"websocket", path=b"/ws", fields=key) + b"\x82\x82\0\0\0\0hi")
    assert status(await client.head()) == 101
    await client.receives(b"\x82\x02hi")
    client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_from_stolen_transport(read: Any) -> None:
    """
    The trick loses what comes behind the request, the access log's line, and the place of the producer.
    The switch does not, nor does one by hand.
    """
    reader = read("howto/from-stolen-transport.md")
    reader.runs()
    made: list[Any] = []
    lines: list[bytes] = []
    reader.names["Echo"].connectionMade = lambda target: made.append(target)
    for site in reader.sites:
        site.log = lambda request: lines.append(request.uri)
    for named, path, received, logged in (
        (8080, b"/echo", b"again", []),
        (8081, b"/echo", b"hello\r\nagain", [b"/echo"]),
        (8081, b"/by-hand", b"hello\r\nagain", [b"/by-hand"]),
    ):
        client = await switched_at(reader.port(named), path, b"echo")
        assert status(await client.head()) == 101
        client.send(b"again")
        await client.receives(b"again")
        assert client.data == received
        transport = made.pop().transport
        with nullcontext() if logged else pytest.raises(RuntimeError):
            transport.registerProducer(transport, True)
        client.transport.abortConnection()
        await client.is_lost()
        assert lines == logged
        lines.clear()


@pytest_twisted.ensureDeferred
async def test_security(read: Any) -> None:
    """The limits are a site's."""
    reader = read("topics/security.md")
    reader.runs()
    site = reader.names["site"]
    assert (site.timeOut, site.accept_timeout, site.switched.limits.max_switched) == (60, 10, 1000)


def test_blocks_are_found() -> None:
    """Whoever looks for blocks finds their language, their file, and their place."""
    first = blocks_of("tutorial.md")[0]
    assert first == Block("console", "$ make serve\n", first.line)
    names = [block.file for block in blocks_of("tutorial.md") if block.language == "python"]
    assert names == [
        *("shout.py", "server.py", "shout.py", "deciding.py", None, "client.py", "test_shout.py")
    ]
