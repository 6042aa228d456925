"""
``serve --workers``: what workers that come and go leave to others: connections, places, descriptors.
"""

from __future__ import annotations

import os
import signal
import stat
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.kit.commands import PATIENCE, read_all, read_until
from tests.kit.harness import status, upgrade_head
from tests.kit.load import KEPT, MOST, PacedLoad
from tests.kit.operating import connected
from tests.kit.workers import by_each, page_on, serves, wait_for_end, workers, write_module


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, monkeypatch)


def test_dying_under_load() -> None:
    """
    A worker that is killed in the middle of 1,000 requests a second takes with it what it had accepted,
    and nothing else: what others have switched lives, and so do connections that they serve. Whoever
    comes from then on is answered.
    """
    with ExitStack() as stack, workers("--drain", "0") as server:
        killed, other = by_each(stack, server.url, 40).values()
        load = PacedLoad(server.url, [client.socket for client in (*killed, *other)])
        load.goes_on()
        os.kill(killed[0].pid, signal.SIGKILL)
        assert "SIGKILL" in server.says()
        died = time.monotonic()
        load.goes_on()
        # New ones come to whoever is there.
        pids = {killed[0].pid, other[0].pid}
        serves(server.url, lambda pid: pid not in pids)
        load.goes_on()
        load.ends()
        assert load.cut == len(killed)
        assert all(client.echoes() for client in other)
        assert other[0].pid not in {pid for _, pid in load.lost}
        # Of those that asked with a connection of their own, it is not known who had accepted them.
        assert all(sent < died for sent, _ in load.lost)
        assert len(load.lost) <= MOST + KEPT
        server.terminate()
        assert server.everything()[0] == 0


def test_descriptors(tmp_path: Path) -> None:
    """
    Reloads, whether they succeed or not, leave no descriptor behind: not in the parent, not in the
    workers, which have no more than those before them had. Nor is a UNIX socket's file lost by them.
    """
    path, config = tmp_path / "socket", tmp_path / "config.toml"
    config.write_text("")
    listen = ["--listen", f"unix:{path}", "--config", str(config)]
    with workers("--drain", "0", *listen) as server:
        assert server.says() == f"listening on {path}"
        pids: set[int] = set()
        counts = []
        for number in range(4):
            if number:
                config.write_text('tunnel = ["/a b nonsense:"]')
                server.send_signal(signal.SIGHUP)
                assert server.says().startswith("not reloaded")
                config.write_text("")
                server.send_signal(signal.SIGHUP)
                assert server.says() == "has reloaded its options"
                for pid in pids:
                    wait_for_end(pid)
            fresh: set[int] = set()
            while len(fresh) < 2:
                fresh.add(serves(str(path), lambda pid: pid not in pids | fresh))  # noqa: B023
            counts.append([pipes(pid) for pid in fresh])
            pids = fresh
            if not number:
                at_first = descriptors(server.pid)
        assert counts == [counts[0]] * 4
        # The parent has heard of all ends a moment after they have come.
        late = time.monotonic() + PATIENCE
        while (left := descriptors(server.pid)) != at_first and time.monotonic() < late:
            serves(str(path), lambda _: True)
        assert left == at_first
        server.terminate()
        assert server.everything()[0] == 0
        assert not path.exists()


def descriptors(pid: int) -> Counter[str]:
    """What a process has open, by kind."""
    found: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found[os.readlink(entry).partition(":")[0]] += 1
    return found


def pipes(pid: int) -> int:
    """How many pipes a worker has. Of sockets, the last client's may be among them, or not any more."""
    return descriptors(pid)["pipe"]


def test_mode_of_a_socket(tmp_path: Path) -> None:
    """A UNIX socket keeps the mode that it was given, with workers, too, and after a reload."""
    path = tmp_path / "socket"
    with workers("--listen", f"unix:{path}:mode=600") as server:
        assert server.says() == f"listening on {path}"
        modes = []
        for _ in range(2):
            serves(str(path), lambda _: True)
            modes.append(stat.S_IMODE(path.stat().st_mode))
            server.send_signal(signal.SIGHUP)
            assert server.says() == "has reloaded its options"
        assert modes == [0o600, 0o600]
        server.terminate()
        assert server.everything()[0] == 0


def test_access_log_of_those_before(tmp_path: Path) -> None:
    """
    Whoever rotates logs moves the file, and sends SIGHUP: old workers, too, write into the new one from
    then on, at each reload.
    """
    log, moved = tmp_path / "access.log", [tmp_path / f"access.log.{number}" for number in (1, 2)]
    with ExitStack() as stack, workers("--access-log", str(log), "--drain", "0") as server:
        clients = [stack.enter_context(connected(server.url)) for _ in moved]
        for client in clients:
            page_on(client)
        for path, client in zip(moved, clients, strict=True):
            log.rename(path)
            server.send_signal(signal.SIGHUP)
            assert server.says() == "has reloaded its options"
            client.sendall(b"GET /old HTTP/1.1\r\nHost: a\r\n\r\n")
            assert status(read_all(client)) == 404
            assert [one.read_text().count("/old") for one in (path, log)] == [0, 1]
            # Else it could be found in the file that is moved next.
            log.write_text("")
        server.terminate()
        assert server.everything() == (0, b"", b"")


def test_retiring_for_so_long(tmp_path: Path) -> None:
    """
    With ``--retire``, an old worker shuts down when the time is up, whoever is still there; what the
    new file says counts. The new workers' connections go on.
    """
    config = tmp_path / "config.toml"
    config.write_text("")
    with ExitStack() as stack, workers("--drain", "0", "--config", str(config)) as server:
        oldest = by_each(stack, server.url, 4)
        server.send_signal(signal.SIGHUP)
        assert server.says() == "has reloaded its options"
        old = by_each(stack, server.url, 4)
        config.write_text("retire = 0.01")
        server.send_signal(signal.SIGHUP)
        assert server.says() == "has reloaded its options"
        for pid, clients in old.items():
            assert all(read_all(client.socket) == b"" for client in clients)
            wait_for_end(pid)
        new = by_each(stack, server.url, 4)
        # They were promised any time.
        assert all(client.echoes() for clients in oldest.values() for client in clients)
        assert all(client.echoes() for clients in new.values() for client in clients)
        server.terminate()
        assert server.everything() == (0, b"", b"")


def test_limits_of_those_before() -> None:
    """
    Whoever was connected when the workers changed can switch as before, where ``--max-switched`` has
    room; and takes a place as anybody does, which others get when the connection ends.
    """
    with ExitStack() as stack, workers("--max-switched", "4", "--drain", "0") as server:
        kept = stack.enter_context(connected(server.url))
        kept.sendall(b"GET /who HTTP/1.1\r\nHost: a\r\n\r\n")
        assert status(read_until(kept, b"\r\n\r\n")) == 200
        server.send_signal(signal.SIGHUP)
        assert server.says() == "has reloaded its options"
        kept.sendall(upgrade_head(b"who", path=b"/who"))
        assert status(read_until(kept, b"\r\n\r\n")) == 101

        def switches() -> bool:
            client = stack.enter_context(connected(server.url))
            client.sendall(upgrade_head(b"who", path=b"/who"))
            return status(read_until(client, b"\r\n\r\n")) == 101

        for _ in range(3):
            while not switches():
                pass
        assert not any(switches() for _ in range(10))
        kept.close()
        while not switches():
            pass
        server.terminate()
        assert server.everything() == (0, b"", b"")
