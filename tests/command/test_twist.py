"""
``twist upgrade-switch`` and ``twistd upgrade-switch``: ``upgrade-switch serve`` as a service.
"""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock

from tests.kit.commands import LOCAL, read_all, read_until, run
from tests.kit.operating import SERVERS, TWIST, TWISTD, Operated, get, logged, operated, upgraded
from tests.kit.programs import run_script
from upgrade_switch.command.server.service import Options, build_server


def finished(*command: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run twist or twistd to its end."""
    done = run_script(command, **kwargs)
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def twist(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``twist upgrade-switch``, to its end."""
    return finished(TWIST, "upgrade-switch", *arguments)


def options_in(usage: str) -> set[str]:
    """The options that a usage lists."""
    return set(re.findall(r"^ +(--[a-z0-9-]+)", usage, re.MULTILINE))


def test_serves(tmp_path: Path) -> None:
    """It takes the options of serve: tunnels, files, passwords, a status page, an access log."""
    (tmp_path / "index.html").write_text("welcome")
    (tmp_path / "config").write_text('files = "/files ."\ndrain = 0\n')
    options = ["--config", "config", "--status", "/status", "--access-log", "access.log"]
    auth = ["--auth", "/status memory:ops:secret"]
    with operated("twist", *options, *auth, cwd=tmp_path) as server:
        assert get(server.url, "/files/")[1].endswith(b"\r\n\r\nwelcome")
        assert get(server.url, "/status")[0] == 401
        with upgraded(server.url, "/echo", "echo") as client:
            client.sendall(b"hello")
            assert read_until(client, b"hello") == b"hello"
            server.terminate()
            assert read_all(client) == b""
        events = server.finishes()
    assert [(event["event"], event["token"]) for event in events] == [
        ("switched", "echo"),
        ("ended", "echo"),
    ]
    assert len((tmp_path / "access.log").read_text().splitlines()) == 3


def test_help() -> None:
    """``--help`` lists the options that serve's lists, and examples for twist."""
    own, other = twist("--help"), run("serve", "--help").stdout.decode()
    assert own.returncode == 0
    assert options_in(own.stdout) == options_in(other)
    assert "--tunnel" in options_in(own.stdout)
    examples = own.stdout.rstrip().splitlines()[-3:]
    assert all(line.strip().startswith("twist upgrade-switch --listen ") for line in examples)


def test_listed() -> None:
    """twist and twistd list it among their services."""
    for program in (TWIST, TWISTD):
        done = finished(program, "--help")
        assert re.search(r"^ +upgrade-switch +HTTP Upgrade", done.stdout, re.MULTILINE), done


@pytest.mark.parametrize("kind", ["twist", "twistd"])
def test_port_in_use(kind: str, tmp_path: Path) -> None:
    """A port that is in use: one line says so, and the exit code is 1."""
    command = [TWIST] if kind == "twist" else [TWISTD, "-n", "-l", "log", "--pidfile="]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        options = ["--listen", LOCAL, "--listen", listen]
        done = finished(*command, "upgrade-switch", *options, cwd=tmp_path)
    assert done.returncode == 1
    # twistd has standard error in its log.
    said = done.stderr if kind == "twist" else (tmp_path / "log").read_text()
    assert said.count(f"upgrade-switch: cannot listen on {listen}:") == 1
    assert "Traceback" not in done.stdout + done.stderr + said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--nonsense"], "option --nonsense not recognized"),
        (["--drain", "soon"], "--drain needs a number of seconds, not 'soon'"),
        (["--log-format", "json"], "twist --log-format=json upgrade-switch"),
        (["--config", "/no/such/file"], "--config /no/such/file: No such file or directory"),
    ],
)
def test_bad_option(arguments: list[str], says: str) -> None:
    """twist says in the first line what is wrong with an option, and lists all; exit code 64."""
    done = twist(*arguments)
    assert (done.returncode, done.stdout) == (64, "")
    first, *usage = done.stderr.splitlines()
    assert first.startswith("Error: ")
    assert says in first
    assert "--tunnel" in options_in("\n".join(usage))
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [[TWIST], [TWISTD, "-n", "--pidfile="]])
@pytest.mark.parametrize(
    "arguments",
    [
        ["--listen", "nothing:1"],
        ["--tunnel", "/x x nothing:1"],
        ["--class", "/x there_is.NoSuchClass"],
        ["--access-log", "/no/such/folder/log"],
    ],
    ids=lambda value: value[0],
)
def test_bad_value(command: list[str], arguments: list[str], tmp_path: Path) -> None:
    """What is found out while the site is made is one line, and exit code 2, as serve has it."""
    done = finished(*command, "upgrade-switch", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done
    assert done.stderr.startswith("upgrade-switch: ")
    assert done.stderr.count("\n") == 1
    assert arguments[1].split()[-1] in done.stderr


@pytest.mark.parametrize("command", [[TWIST], [TWISTD, "-n", "--pidfile="]])
def test_bad_value_for_workers(command: list[str], tmp_path: Path) -> None:
    """What only a worker finds wrong ends the server with exit code 2, too."""
    options = ["--listen", LOCAL, "--workers", "1", "--tunnel", "/x x nothing:1"]
    done = finished(*command, "upgrade-switch", *options, cwd=tmp_path)
    assert done.returncode == 2, done
    assert "serve: not a client endpoint string" in done.stdout + done.stderr


def test_log_format_in_the_file(tmp_path: Path) -> None:
    """A configuration that has a log's format is not twist's, either."""
    (tmp_path / "config").write_text('log-format = "json"\n')
    done = twist("--config", str(tmp_path / "config"))
    assert done.returncode == 64
    assert "twist --log-format=json upgrade-switch" in done.stderr.splitlines()[0]


def test_text_log() -> None:
    """``twist --log-format=text`` has the lines of switches."""
    command = [TWIST, "--log-format=text", "upgrade-switch"]
    with Operated(command, "--listen", LOCAL, "--drain", "0") as server:
        with upgraded(server.listens(), "/echo", "echo") as client:
            server.terminate()
            assert read_all(client) == b""
        code, out, _error = server.ends()
    assert code == 0
    assert (
        len(re.findall(rb"SwitchLog#info\] 127\.0\.0\.1:\d+ switched to echo at /echo: Echo\n", out))
        == 1
    )
    assert len(re.findall(rb"SwitchLog#info\] 127\.0\.0\.1:\d+ ended echo at /echo after", out)) == 1


def test_every_line_is_json() -> None:
    """``twist --log-format=json``: all of its log is JSON, the access log's lines among it."""
    with Operated(SERVERS["twist"], "--listen", LOCAL) as server:
        assert get(server.listens())[0] == 200
        server.terminate()
        _code, out, error = server.ends()
    assert error == b""
    assert [event for event in logged(out) if '"GET / HTTP/1.1" 200' in event.get("log_io", "")]


def test_twistd_as_root(capsys: pytest.CaptureFixture[str]) -> None:
    """twistd has it listen while it is still root, for ports below 1024; and once."""
    options, reactor = Options(), MemoryReactorClock()
    options.parseOptions(["--listen", "tcp:80"])
    server = build_server(reactor, options)
    server.privilegedStartService()
    server.startService()
    assert [port for port, *_more in reactor.tcpServers] == [80]
    assert capsys.readouterr().err.count("listening on") == 1


def test_twistd(tmp_path: Path) -> None:
    """``twistd -n upgrade-switch`` serves, drains at SIGTERM, and has all of it in its log."""
    path, log = tmp_path / "socket", tmp_path / "log"
    options = ["--listen", f"unix:{path}", "--drain", "0"]
    command = [TWISTD, "-n", "-l", "-", "--pidfile=", "upgrade-switch", *options]
    with Operated(command, stderr=subprocess.STDOUT, cwd=tmp_path) as server:
        said = b""
        with server.killed_if_late():
            while b"listening on" not in said:
                said = server.stdout.readline()
                assert said, "it has ended"
        with upgraded(str(path), "/echo", "echo") as client:
            client.sendall(b"hello")
            assert read_until(client, b"hello") == b"hello"
            server.terminate()
            assert read_all(client) == b""
        with server.killed_if_late():
            out = server.stdout.read()
            server.wait()
    assert server.returncode == 0
    assert out.count(b"a UNIX socket ended echo at /echo") == 1
    assert b"Traceback" not in out
    assert not path.exists()
    assert not log.exists()
