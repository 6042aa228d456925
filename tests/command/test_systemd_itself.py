"""
``serve`` as a service of systemd itself, with the units of the documentation.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit.commands import COMMAND, read_until
from tests.kit.operating import connected
from tests.kit.systemd import systemd
from tests.kit.workers import WHO, by_each, write_module

SERVICE = "upgrade-switch.service"
PAGE = Path(__file__).parents[2] / "docs/howto/systemd.md"


def write_units(folder: Path, workers: bool) -> None:
    """The units of the documentation, with a socket, a command and a directory of the test's own."""
    for name, text in re.findall(
        r"```ini\n# /etc/systemd/system/(\S+)\n(.*?)```", PAGE.read_text(), re.S
    ):
        # A unit of the whole system, which is not there, is nothing to wait for.
        unit = re.sub(r"^(\[Unit\])$", r"\1\nDefaultDependencies=no", text, flags=re.M)
        unit = unit.replace("ListenStream=0.0.0.0:8080", f"ListenStream={folder}/web\nSocketMode=0640")
        options = [*(["--workers", "2"] if workers else []), "--log-format", "none", "--drain", "0"]
        serve = " ".join([COMMAND, "serve", "--listen", "systemd:domain=UNIX:index=0", *options])
        unit = re.sub(r"^ExecStart=.*$", f"ExecStart={serve} --class '{WHO[1]}'", unit, flags=re.M)
        # The package and the test's folder are in places that these would hide.
        unit = re.sub(r"^(DynamicUser|ProtectHome|PrivateTmp)=.*\n", "", unit, flags=re.M)
        mode = "KillMode=mixed\n" if workers else ""
        more = f"[Service]\nEnvironment=PYTHONPATH={os.environ['PYTHONPATH']}\n{mode}"
        unit = unit.replace("WatchdogSec=30", "WatchdogSec=5").replace("[Service]\n", more)
        (folder / name).write_text(unit)


@pytest.mark.parametrize("workers", [True, pytest.param(False, marks=pytest.mark.in_ci)])
def test_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: bool) -> None:
    """
    The first client starts it; it is ready, reloads, and is ready again, with connections that go on; a
    server that is killed or hangs is started anew, and who comes meanwhile is served then; it ends
    well. Who may connect is the socket unit's to say.
    """
    write_module(tmp_path, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
    write_units(tmp_path, workers)
    path = str(tmp_path / "web")
    count = 2 if workers else 1
    with systemd(tmp_path) as manager, ExitStack() as stack:

        def come() -> set[int]:
            clients.update(found := by_each(stack, path, 2, processes=count))
            return set(found)

        clients: dict[int, list[object]] = {}
        manager.systemctl("start", "upgrade-switch.socket")
        assert manager.shows(SERVICE, "ActiveState") == "inactive"
        before = come()
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
        assert manager.shows(SERVICE, "ActiveState") == "active"
        main = manager.shows(SERVICE, "MainPID")
        manager.systemctl("reload", SERVICE)
        manager.wait_until(SERVICE, "ActiveState", "active")
        after = come()
        assert bool(before & after) != workers
        assert all(client.echoes() for each in clients.values() for client in each)
        assert manager.shows(SERVICE, "MainPID") == main
        # That a service of several processes has ended, systemd is not told in groups like these: it
        # would wait until it has no patience any more.
        for number, signal in enumerate(() if workers else ("KILL", "STOP"), 1):
            manager.systemctl("kill", "--kill-whom=main", f"--signal={signal}", SERVICE)
            manager.wait_until(SERVICE, "NRestarts", str(number))
            clients.clear()
            come()
            assert manager.shows(SERVICE, "MainPID") != main
        manager.systemctl("stop", SERVICE)
        assert manager.shows(SERVICE, "Result") == "success"
        with connected(path) as client:
            client.sendall(b"GET /who HTTP/1.0\r\n\r\n")
            assert b"200 OK" in read_until(client, b"\r\n\r\n")
