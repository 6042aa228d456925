"""
``serve`` as a service of systemd's with ``Type=notify``, and the user that it runs as.
"""

from __future__ import annotations

import os
import pwd
import signal
import socket
import time
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.usage import UsageError

from tests.kit.commands import LOCAL, PATIENCE, Process, fails
from tests.kit.operating import get, upgraded
from upgrade_switch.command.server.operating import OperatingOptions
from upgrade_switch.command.server.systemd import Notifier


class Manager:
    """The end of a notify socket that is systemd's."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE)
        self.socket.bind(address.replace("@", "\0"))

    def hears(self, *, but: str = "") -> str:
        """The next datagram that is not this one."""
        while (heard := self.socket.recv(1000).decode()) == but:
            pass
        return heard


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(tmp_path: Path, abstract: bool) -> None:
    """Ready when the ports are open, reloading, ready again, stopping; and alive all the time."""
    address = f"@upgrade-switch-{os.getpid()}" if abstract else str(tmp_path / "notify")
    manager = Manager(address)
    environment = {**os.environ, "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
    options = ["--listen", LOCAL, "--log-format", "none", "--drain", "60"]
    with manager.socket, Process("serve", *options, env=environment) as server:
        assert manager.hears() == "READY=1"
        url = server.says().removeprefix("listening on ")
        assert [manager.hears() for _ in range(3)] == ["WATCHDOG=1"] * 3
        began = time.monotonic_ns() // 1000
        server.send_signal(signal.SIGHUP)
        reloading, when = manager.hears(but="WATCHDOG=1").split("\n")
        assert reloading == "RELOADING=1"
        assert began <= int(when.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
        assert manager.hears(but="WATCHDOG=1") == "READY=1"
        with upgraded(url, "/echo", "echo"):
            server.terminate()
            assert manager.hears(but="WATCHDOG=1") == "STOPPING=1"
            # It drains, and is alive.
            assert manager.hears() == "WATCHDOG=1"
        assert server.wait() == 0


def test_no_ready_without_a_port(tmp_path: Path) -> None:
    """A server that cannot listen is never ready."""
    manager = Manager(str(tmp_path / "notify"))
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    with manager.socket, socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        fails(1, "serve", "--listen", listen, env=environment)
        assert manager.hears() == "STOPPING=1"


@pytest.mark.parametrize(
    "watchdog",
    [
        {},
        {"WATCHDOG_USEC": "many"},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
)
def test_watchdog_of_nobody(tmp_path: Path, watchdog: dict[str, str]) -> None:
    """No sign of life is sent where none is wanted, or of another process."""
    manager = Manager(str(tmp_path / "notify"))
    clock = Clock()
    with manager.socket:
        Notifier(clock, {"NOTIFY_SOCKET": str(tmp_path / "notify"), **watchdog}).ready()
        assert manager.hears() == "READY=1"
    assert not clock.getDelayedCalls()


@pytest.mark.parametrize(
    ("address", "why"), [("/nobody/there", "No such file"), ("/" + "x" * 500, "too long")]
)
def test_nobody_to_notify(address: str, why: str) -> None:
    """That systemd cannot be told is logged, and is no reason not to serve."""
    with capturedLogs() as logged:
        Notifier(Clock(), {"NOTIFY_SOCKET": address}).ready()
    (event,) = logged
    assert why in formatEvent(event)


def test_run_as() -> None:
    """The server is another user once its ports are open, with that user's groups alone."""
    name = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    user = pwd.getpwnam(name)
    options = ["--listen", LOCAL, "--run-as", name]
    with Process("serve", *options) as server:
        url = server.says().removeprefix("listening on ")
        assert get(url)[0] == 200
        status = Path(f"/proc/{server.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split() == [str(user.pw_uid)] * 4
        assert fields["Gid"].split() == [str(user.pw_gid)] * 4
        groups = {int(group) for group in fields["Groups"].split()}
        assert groups == set(os.getgrouplist(name, user.pw_gid))
        # It is that user already.
        server.send_signal(signal.SIGHUP)
        assert server.says() == "has reloaded its options"
        server.terminate()
        assert server.wait() == 0


def test_run_as_nobody_known() -> None:
    """A user whom nobody knows: one line, exit code 2."""
    assert "no user 'nobody at all'" in fails(2, "serve", "--run-as", "nobody at all")


def test_run_as_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root can become nobody else."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(UsageError, match="only root"):
        OperatingOptions().opt_run_as("root")
