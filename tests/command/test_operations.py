"""
``upgrade-switch serve`` in operation: how it ends, what it logs.
"""

from __future__ import annotations

import inspect
import os
import re
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import eventsFromJSONLogFile, formatEvent
from twisted.web.http import HTTPFactory

from tests.kit.commands import COMMAND, LOCAL, fails, read_all, read_until, run, serving
from tests.kit.harness import status, upgrade_head
from tests.kit.operating import SERVERS, Operated, connected, get, logged, operated, upgraded

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
    has each connection's switch and its end, and why there was no decision.
    """
    options = ["--class", "/things things.Things", "--drain", str(seconds)]
    with ExitStack() as stack, operated(kind, *options, pass_fds=[told[1]]) as server:
        polite = [stack.enter_context(upgraded(server.url, "/things", "polite")) for _ in range(19)]
        rude = stack.enter_context(upgraded(server.url, "/things", "rude"))
        waiting = stack.enter_context(undecided(server.url, told))
        declined = ("declined", "undecided", name_of(waiting))
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
    assert told_of[declined] == 1
    told_of.subtract([declined])
    assert +told_of == Counter(
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


@pytest.mark.parametrize("kind", ["serve", "twist"])
def test_sigterm_twice(kind: str) -> None:
    """A second SIGTERM, as timeout(1) sends it, changes nothing, and no traceback is seen."""
    with operated(kind, "--class", "/things things.Things", "--drain", "600") as server:
        with (
            upgraded(server.url, "/things", "rude") as rude,
            upgraded(server.url, "/things", "polite") as polite,
        ):
            server.terminate()
            assert read_all(polite) == b"goodbye"
            server.terminate()
            rude.sendall(b"hello")
            assert read_until(rude, b"hello") == b"hello"
        code, out, error = server.ends()
    assert code == 0
    levels = {event["log_level"]["name"] for event in logged(error) if kind == "serve"}
    assert levels <= {"info"}, (out, error)


def test_sigint_twice() -> None:
    """A second SIGINT ends it at once."""
    with operated("serve", "--class", "/things things.Things", "--drain", "600") as server:
        with (
            upgraded(server.url, "/things", "rude") as rude,
            upgraded(server.url, "/things", "polite") as polite,
        ):
            server.send_signal(signal.SIGINT)
            assert read_all(polite) == b"goodbye"
            server.send_signal(signal.SIGINT)
            assert read_all(rude) == b""
        code, _out, error = server.ends()
    assert code == -signal.SIGINT
    assert b"Traceback" not in error


def test_several_ports_in_use() -> None:
    """Where several ports are in use, a line for each says so; exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [server.getsockname()[1] for server in (one, two)]
        options = [part for port in ports for part in ("--listen", f"tcp:{port}:interface=127.0.0.1")]
        done = run("serve", *options)
    assert (done.returncode, done.stdout) == (1, b"")
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 2
    for line, port in zip(lines, ports, strict=True):
        assert line.startswith(f"upgrade-switch: cannot listen on tcp:{port}:")


def switches_once(server: Any) -> str:
    """
    Switch, and end the server.

    :return: what the client is called in the log.
    """
    with upgraded(server.url, "/echo", "echo") as client:
        server.terminate()
        assert read_all(client) == b""
        return name_of(client)


def test_json_log() -> None:
    """
    ``--log-format json``: all that follows the address is JSON, an object a line, with the fields of
    the switch; Twisted reads it, too.
    """
    with operated("serve", "--drain", "0") as server:
        name = switches_once(server)
        code, _out, error = server.ends()
    assert code == 0
    begin, end = logged(error)
    common = {"token": "echo", "path": "/echo", "peer": name, "target": "Echo"}
    assert begin.items() >= {**common, "event": "switched"}.items()
    assert end.items() >= {**common, "event": "ended", "why": "aborted"}.items()
    assert 0 <= end["seconds"] < 60
    assert begin["message"] == f"{name} switched to echo at /echo: Echo"
    assert end["message"] == f"{name} ended echo at /echo after {end['seconds']} s: aborted"
    read = list(eventsFromJSONLogFile(StringIO(error.decode())))
    assert [formatEvent(event) for event in read] == [begin["message"], end["message"]]


def test_json_of_what_goes_wrong() -> None:
    """What an acceptor raises is an object of one line, too, with the traceback in its message."""
    with operated("serve", "--class", "/things things.Things") as server:
        with connected(server.url) as client:
            client.sendall(upgrade_head(b"failing", path=b"/things"))
            assert status(read_until(client, b"\r\n\r\n")) == 500
        server.terminate()
        _code, _out, error = server.ends()
    event, declined = logged(error)
    assert (declined["event"], declined["detail"]) == ("declined", "RuntimeError: not today")
    assert event["log_level"]["name"] == "critical"
    assert "RuntimeError: not today" in event["message"]


def test_text_log() -> None:
    """The log is for people unless something else is said: a line for a switch, and for its end."""
    with Operated([COMMAND, "serve"], "--listen", LOCAL, "--drain", "0") as server:
        server.url = server.listens()
        name = switches_once(server)
        assert server.ends() == (0, b"", b"")
    begin, end = server.log
    assert begin == f"{name} switched to echo at /echo: Echo"
    assert re.fullmatch(rf"{re.escape(name)} ended echo at /echo after [0-9.]+ s: aborted", end)


def test_no_log() -> None:
    """``--log-format none``: the address, and nothing else."""
    options = ["--log-format", "none", "--class", "/things things.Things"]
    with Operated([COMMAND, "serve"], "--listen", LOCAL, *options) as server:
        url = server.listens()
        with upgraded(url, "/things", "polite") as client, connected(url) as failing:
            failing.sendall(upgrade_head(b"failing", path=b"/things"))
            assert status(read_until(failing, b"\r\n\r\n")) == 500
            server.terminate()
            assert read_all(client) == b"goodbye"
        assert server.ends() == (0, b"", b"")
        assert server.log == []


def test_log_format_values() -> None:
    """``--log-format`` wants one of its formats, or says which there are."""
    assert "text, json, none" in fails(2, "serve", "--listen", LOCAL, "--log-format", "xml")


COMBINED = r'"127\.0\.0\.1" - - \[[^]]+\] "GET {} HTTP/1\.1" {} (\d+|-) "http://x/" "curl/8"\n'
FIELDS = b"Referer: http://x/\r\nUser-Agent: curl/8\r\n"


def three_requests(url: str) -> str:
    """
    A page, what is not there, and a switch.

    :return: what an access log has of it, as a regular expression.
    """
    get(url, "/", FIELDS)
    get(url, "/nowhere?x=%22", FIELDS)
    upgraded(url, "/echo", "echo", FIELDS).close()
    wanted = [("/", 200), (re.escape("/nowhere?x=%22"), 404), ("/echo", 101)]
    return "".join(COMBINED.format(*one) for one in wanted)


def test_access_log(tmp_path: Path) -> None:
    """``--access-log FILE``: a line for each request, in combined format, behind what is there."""
    file = tmp_path / "access.log"
    file.write_text("of yesterday\n")
    for _ in range(2):
        with serving("--access-log", str(file)) as server:
            wanted = three_requests(server.url)
    assert re.fullmatch("of yesterday\n" + 2 * wanted, file.read_text())
    assert [entry.name for entry in tmp_path.glob("access*")] == ["access.log"]


@pytest.mark.parametrize("gone", [False, True])
def test_access_log_on_standard_output(gone: bool) -> None:
    """``--access-log -``: standard output; when nobody reads it any more, requests are served."""
    with Operated([COMMAND, "serve"], "--listen", LOCAL, "--access-log", "-") as server:
        url = server.listens()
        if gone:
            server.stdout.close()
        wanted = three_requests(url)
        server.terminate()
        code, out, error = server.ends()
    assert code == 0
    if gone:
        assert error.count(b"\n") == error.count(b"cannot write /dev/stdout: Broken pipe") == 1
    else:
        assert re.fullmatch(wanted, out.decode())
        assert error == b""


def test_access_log_that_nobody_reads() -> None:
    """Where standard output is a pipe that is full, the log says so once, and requests are served."""
    with Operated([COMMAND, "serve"], "--listen", LOCAL, "--access-log", "-") as server:
        url = server.listens()
        for _ in range(40):
            # A pipe has 64 KiB.
            assert get(url, "/" + 3000 * "x")[0] == 404
        server.terminate()
        code, _out, error = server.ends()
    assert code == 0
    assert error.count(b"\n") == error.count(b"cannot write /dev/stdout: nobody reads it") == 1, error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_full_disk() -> None:
    """Where the access log cannot be written, the log says so once, and requests are served."""
    with Operated([COMMAND, "serve"], "--listen", LOCAL, "--access-log", "/dev/full") as server:
        url = server.listens()
        three_requests(url)
        assert get(url)[0] == 200
        server.terminate()
        code, _out, error = server.ends()
    assert code == 0
    assert error.count(b"\n") == error.count(b"cannot write /dev/full: No space left") == 1, error


def test_access_log_is_not_rotated() -> None:
    """Twisted asks ``_openLogFile`` for the file: else it would begin a new one with each megabyte."""
    assert "self._openLogFile(" in inspect.getsource(HTTPFactory.startFactory)
    assert "_openLogFile" in vars(HTTPFactory)


@pytest.mark.parametrize("name", ["", "missing/access.log"])
def test_unwritable_access_log(name: str, tmp_path: Path) -> None:
    """A file that cannot be written: one line that names it, exit code 2."""
    file = str(tmp_path / name)
    line = fails(2, "serve", "--listen", LOCAL, "--access-log", file)
    assert "--access-log" in line
    assert file in line
