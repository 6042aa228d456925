"""
What docs/operating.md says about running a site holds.
"""

from __future__ import annotations

import json
import subprocess
from base64 import b64encode
from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.internet.endpoints import connectProtocol
from twisted.internet.threads import deferToThread
from twisted.python.usage import UsageError

from tests.kit.commands import PATIENCE
from tests.kit.documented import Reader, Session, environment, read, sessions
from tests.kit.harness import Recorder, localhost, patient, status, upgrade_head
from upgrade_switch.command.server.proxy import proxy_of_words

__all__ = ["read"]  # a fixture

PAGE = "operating.md"

LOCAL_8086 = "tcp:8086:interface=127.0.0.1"


async def asks(port: int, path: bytes, token: bytes, fields: bytes = b"") -> Recorder:
    """A client that has asked for an upgrade, with ``hello`` behind the request."""
    client = await patient(connectProtocol(localhost(port), Recorder()))
    client.send(upgrade_head(token, path=path, fields=fields) + b"hello\r\n")
    return client


async def closes(client: Recorder) -> None:
    client.transport.abortConnection()
    await client.is_lost()


async def get(url: str, **arguments: Any) -> tuple[int, str]:
    """Status and body of a page."""
    response = await patient(treq.get(url, persistent=False, **arguments))
    return response.code, await patient(response.text())


#: What the metrics of back ends begin with; a site without a proxy has none.
BACK_END = "upgrade_switch_back_end_"


def metrics_of(reader: Reader) -> list[str]:
    """The metrics in the page's tables."""
    lines = [line for line in reader.lines() if line.startswith("| `upgrade_switch_")]
    return [line.split("`")[1] for line in lines]


def commands_of(reader: Reader) -> list[Any]:
    return [sessions(block.text)[0] for block in reader.blocks("console")]


@pytest_twisted.ensureDeferred
async def test_service(read: Any) -> None:
    """The service says goodbye when it stops, and kicks who is to be kicked."""
    reader = read(PAGE)
    reader.runs(0, 1)
    reader.starts(reader.names["service"])
    port = reader.port(8080)
    kicked = await asks(port, b"/chat", b"chat")
    await kicked.receives(b"hello\r\n")
    reader.names["kick"]("192.0.2.1")
    assert len(reader.names["site"].switched) == 1
    reader.names["kick"]("127.0.0.1")
    await kicked.is_lost()
    client = await asks(port, b"/chat", b"chat")
    await client.receives(b"hello\r\n")
    stopped = reader.names["service"].stopService()
    await client.receives(b"the server is going down\r\n")
    await client.is_lost()
    await patient(stopped)


@pytest_twisted.ensureDeferred
async def test_observers(read: Any, listen: Any) -> None:
    """The page's observer is told of a switch, of its end, and of what was declined."""
    reader = read(PAGE)
    reader.runs(0, 1, 2)
    listening = await listen("tcp", reader.names["watched"])
    port = listening.port.getHost().port
    declined = await asks(port, b"/chat", b"chess")
    assert status(await declined.head()) == 426
    await closes(declined)
    client = await asks(port, b"/chat", b"chat")
    await client.receives(b"hello\r\n")
    client.transport.loseConnection()
    await client.is_lost()
    await patient(reader.names["watched"].switched.when_empty())
    assert reader.names["tally"].lines == ["chess: unknown token", "chat at /chat", "chat closed"]


@pytest_twisted.ensureDeferred
async def test_status(read: Any) -> None:
    """The page's site shows what it has counted: to people, as JSON, and every metric to Prometheus."""
    reader = read(PAGE)
    reader.runs()
    port = reader.port(8081)
    url = f"http://127.0.0.1:{port}/status"
    declined = await asks(port, b"/chat", b"chess")
    assert status(await declined.head()) == 426
    await closes(declined)
    ended = await asks(port, b"/chat", b"chat")
    await ended.receives(b"hello\r\n")
    await closes(ended)
    await patient(reader.names["counted"].switched.when_empty())
    client = await asks(port, b"/chat", b"chat")
    await client.receives(b"hello\r\n")
    assert (await get(url))[0] == 200
    shown = json.loads((await get(f"{url}/json"))[1])
    assert [connection["path"] for connection in shown["switched"]] == ["/chat"]
    metrics = (await get(f"{url}/metrics"))[1]
    for name in metrics_of(reader):
        assert (f"\n# TYPE {name} " in metrics) is not name.startswith(BACK_END)
    await closes(client)


@pytest_twisted.ensureDeferred
async def test_logs(read: Any) -> None:
    """The page's serve logs a switch and its end as JSON, and the request in the access log."""
    reader = read(PAGE)
    with reader.serves(commands_of(reader)[0]) as server:
        client = await asks(reader.port(8080), b"/echo", b"echo")
        await client.receives(b"hello\r\n")
        client.transport.loseConnection()
        await client.is_lost()
    events = [json.loads(line) for line in server.log.splitlines()]
    named = [(event["event"], event["token"], event["path"]) for event in events if "event" in event]
    assert named == [("switched", "echo", "/echo"), ("ended", "echo", "/echo")]
    assert '"GET /echo HTTP/1.1" 101' in (reader.folder / "access.log").read_text()


@pytest_twisted.ensureDeferred
async def test_status_of_the_command(read: Any) -> None:
    """The page's serve shows its status to those who have the password, as the page's curl says."""
    reader = read(PAGE)
    _logs, serve, curl, *_more = commands_of(reader)
    with reader.serves(serve):
        await reader.types(curl)
        assert (await get(f"http://127.0.0.1:{reader.port(8082)}/status"))[0] == 401


@pytest_twisted.ensureDeferred
async def test_configuration_file(read: Any) -> None:
    """The page's file is what serve takes: its port, its tunnel, its password, its status."""
    reader = read(PAGE)
    reader.saves("toml")
    with reader.serves(commands_of(reader)[3]):
        url = f"http://127.0.0.1:{reader.port(8083)}"
        assert "/ssh" in (await get(url))[1]
        assert (await get(f"{url}/status"))[0] == 401
        password = b64encode(b"ops:secret").decode()
        code, _page = await get(f"{url}/status", headers={"Authorization": f"Basic {password}"})
        assert code == 200


@pytest_twisted.ensureDeferred
async def test_twist(read: Any) -> None:
    """The page's twist serves, with twist's own log."""
    reader = read(PAGE)
    command = f"exec {reader.text_of(commands_of(reader)[4].command)}"
    with subprocess.Popen(
        ["bash", "-c", command], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as twist:
        try:
            assert twist.stdout is not None
            line = await patient(deferToThread(twist.stdout.readline))
            assert f"starting on {reader.port(8084)}".encode() in line
            assert (await get(f"http://127.0.0.1:{reader.port(8084)}/"))[0] == 200
        finally:
            twist.terminate()
            await deferToThread(twist.communicate, timeout=PATIENCE)


@pytest_twisted.ensureDeferred
async def test_proxy(read: Any) -> None:
    """The page's proxy passes on what is not at a longer path, and its back end is in the metrics."""
    reader = read(PAGE)
    (reader.folder / "public").mkdir()
    (reader.folder / "public" / "file.txt").write_text("a file")
    back_end = Session(
        f"upgrade-switch serve --listen {LOCAL_8086} --tunnel '/x x tcp:127.0.0.1:1'", ""
    )
    with reader.serves(back_end), reader.serves(commands_of(reader)[5]):
        url = f"http://127.0.0.1:{reader.port(8085)}"
        assert (await get(f"{url}/static/file.txt"))[1] == "a file"
        assert "<code>/x</code>" in (await get(url))[1]
        metrics = (await get(f"{url}/status/metrics"))[1]
    named = [name for name in metrics_of(reader) if name.startswith(BACK_END)]
    assert named
    for name in named:
        assert f"\n# TYPE {name} " in metrics


@pytest_twisted.ensureDeferred
async def test_file_with_proxies(read: Any) -> None:
    """The page's file with proxies is what serve takes, and each of its settings is in the table."""
    reader = read(PAGE)
    reader.saves("toml")
    serve = Session("upgrade-switch serve --config proxies.toml", "")
    # Each is asked how it is.
    back_ends = (
        f"upgrade-switch serve --listen {LOCAL_8086} --listen {LOCAL_8086.replace('8086', '8087')}"
    )
    with reader.serves(Session(back_ends, "")), reader.serves(serve):
        url = f"http://127.0.0.1:{reader.port(8085)}"
        assert (await get(f"{url}/admin/echo"))[0] == 401
        password = b64encode(b"ops:secret").decode()
        fields = {"Authorization": f"Basic {password}"}
        assert (await get(f"{url}/admin/echo", headers=fields))[0] == 426
        client = await asks(
            reader.port(8085), b"/admin/echo", b"echo", f"Authorization: Basic {password}\r\n".encode()
        )
        await client.receives(b"hello\r\n")
        await closes(client)
    with pytest.raises(UsageError) as raised:
        proxy_of_words("/x http://a no=x")
    _, _, names = str(raised.value).partition("available: ")
    rows = [line.split("`")[1] for line in reader.lines() if line.startswith("| `")]
    assert set(names.split(", ")) <= set(rows)
