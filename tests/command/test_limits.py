"""``upgrade-switch serve``: the options that set limits."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.kit.commands import fails, serving
from upgrade_switch.command.server.options import ServeOptions

HEAD = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


def limits_of(*arguments: str) -> Any:
    options = ServeOptions()
    options.parseOptions(arguments)
    return options.site_limits()


def test_given() -> None:
    """The site is told of the options that were given, and of no others."""
    assert limits_of() == {}
    assert limits_of("--max-switched", "3", "--head-timeout", "1.5", "--tcp-keepalive", "7") == {
        "max_switched": 3,
        "head_timeout": 1.5,
        "tcp_keepalive": (7, 15, 4),
    }


def test_zero() -> None:
    """0 takes a limit away."""
    arguments = [f"--{name}=0" for name in ("max-switched", "max-per-address", "max-unsent")]
    assert limits_of(*arguments, "--head-timeout=0", "--tcp-keepalive=0") == {
        "max_switched": None,
        "max_per_address": None,
        "max_unsent": None,
        "head_timeout": None,
        "tcp_keepalive": False,
    }


@pytest.mark.parametrize("value", ["-1", "x", "", "nan", "inf", "1.5"])
@pytest.mark.parametrize("option", ["max-switched", "max-per-address", "max-unsent", "tcp-keepalive"])
def test_wrong_number(option: str, value: str) -> None:
    """What is not a whole number is a usage error that names the option."""
    assert f"--{option} must be a" in fails(2, "serve", f"--{option}={value}")


@pytest.mark.parametrize("option", ["head-timeout", "idle-timeout", "heartbeat"])
def test_wrong_seconds(option: str) -> None:
    """So is a time that is not a number."""
    assert f"--{option} must be a number" in fails(2, "serve", f"--{option}=soon")


def test_config(tmp_path: Path) -> None:
    """The file with options has them too; the command line overrides it."""
    config = tmp_path / "options.toml"
    config.write_text("max-switched = 5\nhead-timeout = 2.5\n")
    assert limits_of("--config", str(config), "--max-switched", "6") == {
        "max_switched": 6,
        "head_timeout": 2.5,
    }


def status_behind(connection: socket.socket) -> int:
    return int(connection.recv(1000).split()[1])


def test_serving() -> None:
    """They hold for a server that runs: one connection too many, and a head that does not come."""
    with serving("--max-per-address", "2", "--head-timeout", "1") as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2].strip("/")))
        connections = [socket.create_connection(address, 10) for _ in range(4)]
        for connection, expected in zip(connections[:3], (101, 101, 429), strict=True):
            connection.sendall(HEAD)
            assert status_behind(connection) == expected
        connections[3].sendall(HEAD[:20])
        assert status_behind(connections[3]) == 408
        for connection in connections:
            connection.close()


@pytest.mark.parametrize(
    ("arguments", "seconds"), [((), 30), (("--heartbeat=5",), 5), (("--heartbeat=0",), None)]
)
def test_heartbeat(arguments: tuple[str, ...], seconds: float | None) -> None:
    """WebSocket tunnels have a heartbeat of 30 seconds, another one, or none."""
    options = ServeOptions()
    options.parseOptions(arguments)
    assert options.tunnel_heartbeat == seconds


@pytest.mark.parametrize("command", ["connect", "forward"])
def test_wrong_heartbeat(command: str) -> None:
    """A heartbeat of a client is a number of seconds, too."""
    words = ["tcp:0"] if command == "forward" else []
    said = fails(2, command, "--heartbeat=-1", *words, "ws://localhost/")
    assert "--heartbeat needs a number of seconds" in said
