"""
README's code blocks run, and do what is said beside them.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from runpy import run_path
from typing import Any
from unittest.mock import patch

import pytest
import pytest_twisted
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import trustRootFromCertificates
from twisted.web.client import BrowserLikePolicyForHTTPS
from twisted.web.resource import Resource
from twisted.web.websocket import WebSocketClientEndpoint

from tests.kit.certificate import AUTHORITY, CERTIFICATE_PEM, KEY_PEM
from tests.kit.harness import (
    Listening,
    Page,
    Recorder,
    Waiters,
    WatchedSite,
    field,
    patient,
    reactor,
    site_of,
    status,
    upgrade_head,
)
from upgrade_switch import UpgradeResource
from upgrade_switch.protocols import TLSUpgradePool

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
CONSOLE = re.findall(r"```console\n(.*?)```", README, re.DOTALL)


class Talk(Recorder):
    """The client's protocol that README leaves to its reader."""

    talking: list[Talk] = []  # noqa: RUF012 - one list for the whole test, on purpose

    def connectionMade(self) -> None:
        super().connectionMade()
        self.talking.append(self)
        self.send(b"hello")


class User:
    room = "kitchen"


class Users:
    """README's ``users``, of whom there is one."""

    async def find(self, cookie: bytes | None) -> User | None:
        return User() if cookie == b"good" else None


def run_readme(folder: Path) -> dict[str, Any]:
    """Run all blocks in one namespace, as a reader does who copies them one below the other."""
    names: dict[str, Any] = {
        "users": Users(),
        "Chat": lambda user: Recorder(),
        "Talk": Talk,
        "Private": Page,
    }
    real = endpoints.serverFromString

    def listen_anywhere(reactor: Any, description: str) -> Any:
        assert description == "tcp:8080:interface=127.0.0.1"
        endpoint = real(reactor, "tcp:0:interface=127.0.0.1")
        names["listening"] = []
        listen = endpoint.listen
        endpoint.listen = lambda f: listen(f).addCallback(names["listening"].append)
        return endpoint

    (folder / "server.pem").write_bytes(CERTIFICATE_PEM + KEY_PEM)
    with (
        patch.object(endpoints, "serverFromString", listen_anywhere),
        patch.object(reactor, "run"),
        chdir(folder),
    ):
        for block in PYTHON:
            exec(compile(block, "README.md", "exec"), names)
    names["folder"] = folder
    return names


def block_site(names: dict[str, Any], text: str) -> Any:
    """The site that the block with this text makes."""
    (block,) = [block for block in PYTHON if text in block and "site =" in block]
    own = names | {"root": Resource()}
    with chdir(names["folder"]):
        exec(compile(block, "README.md", "exec"), own)
    return own["site"]


@pytest.fixture(scope="module")
def readme(tmp_path_factory: pytest.TempPathFactory) -> Any:
    names = run_readme(tmp_path_factory.mktemp("readme"))
    yield names
    pytest_twisted.blockon(names["listening"][0].stopListening())


@pytest_twisted.ensureDeferred
async def test_server_and_client(readme: dict[str, Any], capsys: Any) -> None:
    """README's treq client talks to README's echo server; a refusal is printed."""
    port = readme["listening"][0].getHost().port
    await readme["talk"](f"http://127.0.0.1:{port}/echo")
    talk = Talk.talking.pop()
    await talk.receives(b"hello")
    talk.transport.abortConnection()
    await talk.is_lost()
    await readme["talk"](f"http://127.0.0.1:{port}/nothing")
    assert capsys.readouterr().out.startswith("404 ")
    await readme["pool"].closeCachedConnections()


@pytest_twisted.ensureDeferred
async def test_endpoints(readme: dict[str, Any], listen: Any) -> None:
    """README's endpoint, in its string form too, connects any Twisted protocol."""
    listening = await listen("tcp", site_of({"echo": Factory.forProtocol(readme["Echo"])}))
    (text,) = re.findall(r'clientFromString\(reactor, "(upgrade:.*?)"\)', README)
    text = text.replace("\\\\", "\\").replace("8080/echo", f"{listening.port.getHost().port}/u")
    talk = await endpoints.clientFromString(reactor, text).connect(Factory.forProtocol(Talk))
    await talk.receives(b"hello")
    talk.transport.loseConnection()
    await talk.is_lost()
    assert type(readme["endpoint"]).__name__ == "UpgradeEndpoint"


@pytest_twisted.ensureDeferred
async def test_acceptor_and_by_hand(readme: dict[str, Any], listen: Any) -> None:
    """README's acceptor decides by cookie, and its resource switches by hand."""
    names = readme.copy()
    exec(compile(PYTHON[1], "README.md", "exec"), names)
    deciding = await listen("tcp", site_of(names["resource"]))
    for cookie, expected in ((b"good", 101), (b"bad", 403)):
        client = await deciding.connect()
        client.send(upgrade_head(b"chat/2", fields=b"Cookie: session=" + cookie + b"\r\n"))
        head = await client.head()
        assert status(head) == expected
        assert (b"X-Room: kitchen" in head) is (expected == 101)
    by_hand: Listening = await listen("tcp", site_of(names["ByHand"]()))
    for token, expected in ((b"echo", 101), (b"other", 426)):
        client = await by_hand.connect()
        client.send(upgrade_head(token))
        assert status(await client.head()) == expected


def test_tunnel(readme: dict[str, Any]) -> None:
    """README's tunnel is a resource."""
    assert isinstance(readme["resource"], UpgradeResource)


@pytest_twisted.ensureDeferred
async def test_preface(readme: dict[str, Any], listen: Any) -> None:
    """README's flag line leads to its protocol, which gets that line, too."""
    listening = await listen("tcp", block_site(readme, "prefaces="))
    client = await listening.connect()
    client.send(b"SHOUT\r\nhello\r\n")
    await client.receives(b"SHOUT\r\nHELLO\r\n")


@pytest_twisted.ensureDeferred
async def test_tls(readme: dict[str, Any], listen: Any) -> None:
    """README's TLS client gets what README's site gives inside TLS only."""
    listening = await listen("tcp", block_site(readme, "tls_required"))
    client = await listening.connect()
    client.send(b"GET /private HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert field(await client.head(), b"upgrade") == b"TLS/1.2, HTTP/1.1"
    policy = BrowserLikePolicyForHTTPS(trustRootFromCertificates([AUTHORITY]))
    pool = TLSUpgradePool(reactor, policy)
    with patch.dict(readme, secure=pool):
        assert await readme["fetch"](f"{listening.url}/private") == "page GET "
    await pool.closeCachedConnections()


@pytest_twisted.ensureDeferred
async def test_h2c(readme: dict[str, Any], listen: Any) -> None:
    """README's site takes h2c."""
    listening = await listen("tcp", block_site(readme, "h2c()"))
    client = await listening.connect()
    settings = b"Connection: HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    client.send(upgrade_head(b"h2c", path=b"/", fields=settings))
    assert status(await client.head()) == 101


@pytest_twisted.ensureDeferred
async def test_websocket(readme: dict[str, Any], listen: Any, capsys: Any) -> None:
    """README's WebSocket client gets its message back from README's server."""
    (block,) = [block for block in PYTHON if "EchoMessages" in block]
    own = readme | {"root": Resource()}
    exec(compile(block, "README.md", "exec"), own)
    listening = await listen("tcp", WatchedSite(own["root"]))
    await patient(Deferred.fromCoroutine(readme["ask"](f"{listening.url}/ws")))
    assert capsys.readouterr().out == "hello\n"


@pytest_twisted.ensureDeferred
async def test_byte_stream(readme: dict[str, Any], listen: Any) -> None:
    """README's stream over WebSockets is an acceptor, and an endpoint."""
    (block,) = [block for block in PYTHON if "byte_stream" in block]
    own = readme.copy()
    exec(compile(block, "README.md", "exec"), own)
    assert isinstance(own["resource"], UpgradeResource)
    assert IStreamClientEndpoint.providedBy(own["client"])


@pytest_twisted.ensureDeferred
async def test_connect(readme: dict[str, Any], listen: Any) -> None:
    """README's acceptor of CONNECTs lets through to what it names, and to nobody else."""
    (block,) = [block for block in PYTHON if "def connect" in block]
    far = await listen("tcp", WatchedSite(Page()))
    own = readme | {"root": Resource()}
    exec(compile(block.replace("5432", str(far.port.getHost().port)), "README.md", "exec"), own)
    near = await listen("tcp", own["site"])
    for port, code in ((far.port.getHost().port, 200), (443, 403)):
        client = await near.connect()
        client.send(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: a\r\n\r\n" % port)
        assert status(await client.head()) == code
        if code == 200:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.response())[1] == b"page GET "


@pytest_twisted.ensureDeferred
async def test_from_twisted_web_websocket(listen: Any) -> None:
    """
    What docs/ says about moving from twisted.web.websocket: a protocol of that module works on the
    switch with that module's own client, and gets a frame from the request's own segment.
    """
    page = (ROOT / "docs" / "from-twisted-web-websocket.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = run_path(str(ROOT / "examples" / "twisted_websocket.py"), run_name="example")
    names["root"] = Resource()
    exec(compile(block, "docs", "exec"), names)
    listening = await listen("tcp", WatchedSite(names["root"]))

    told = Waiters()
    heard: list[Any] = []

    class Listener(names["Echo"]):
        def textMessageReceived(self, message: str) -> None:
            heard.append(message)
            told.look()

        def connectionLost(self, reason: Any) -> None:
            heard.append("lost")
            told.look()

    class Factory:
        def buildProtocol(self, url: str) -> Any:
            return Listener()

    endpoint = WebSocketClientEndpoint.new(reactor, f"{listening.url}/ws")
    protocol = await patient(Deferred.fromCoroutine(endpoint.connect(Factory())))
    protocol.transport.sendTextMessage("hello")
    await told.until(lambda: heard == ["hello"])
    protocol.transport.loseConnection()
    await told.until(lambda: heard == ["hello", "lost"])

    client = await listening.connect()
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    client.send(upgrade_head(b"websocket", path=b"/ws", fields=key) + b"\x81\x82\0\0\0\0hi")
    assert status(await client.head()) == 101
    await client.receives(b"\x81\x02hi")


def test_testing(readme: dict[str, Any]) -> None:
    """README's test of an acceptor passes, and fails where the acceptor is wrong."""
    readme["test_echo"]()
    wrong = {"UpgradeResource": lambda upgrades: UpgradeResource({"other": lambda r, t: None})}
    with patch.dict(readme["test_echo"].__globals__, wrong), pytest.raises(AssertionError):
        readme["test_echo"]()


def test_command() -> None:
    """README's command lines, on a port that is free, do what they say."""
    lines = [line[2:] for block in CONSOLE for line in block.splitlines()]
    (connect,) = [line for line in lines if line.startswith("echo hello | ")]
    program = str(Path(sys.executable).parent / "upgrade-switch")
    server = subprocess.Popen(
        [program, "serve", "--listen", "tcp:0:interface=127.0.0.1"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        port = server.stderr.readline().rstrip("/\n").rpartition(":")[2]
        command = connect.replace("upgrade-switch", shlex.quote(program)).replace("8080", port)
        done = subprocess.run(command, shell=True, capture_output=True, timeout=30, check=True)
        assert done.stdout == b"hello\n"
    finally:
        server.terminate()
        assert server.wait(30) == 0
        server.stderr.close()


def test_every_block_is_known() -> None:
    """A new code block in README wants a test of its own here."""
    assert (len(PYTHON), len(CONSOLE)) == (15, 3)
