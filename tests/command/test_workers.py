"""
``serve --workers``: processes that share the ports and the limits, that are replaced when they die, and
that reload without a gap.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit.certificate import make_certificate
from tests.kit.commands import COMMAND, LOCAL, PATIENCE, fails, read_all, read_until
from tests.kit.harness import status, upgrade_head
from tests.kit.load import PacedLoad
from tests.kit.operating import TWIST, Operated, body_of, connected, get
from tests.kit.programs import Program, one_line
from tests.kit.workers import WHO, by_each, serves, wait_for_end, workers, write_module


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, monkeypatch)


def test_dying(tmp_path: Path) -> None:
    """
    A worker that is killed takes its own connections with it alone, and is replaced; if the next ones
    die at their start, again and again, each waits longer than the one before. SIGTERM ends them all.
    """
    with ExitStack() as stack, workers("--drain", "0") as server:
        killed, other = by_each(stack, server.url, 20).values()
        os.kill(killed[0].pid, signal.SIGKILL)
        assert re.fullmatch(r"a worker has died \(SIGKILL\); another one starts.*", server.says())
        assert all(read_all(client.socket) == b"" for client in killed)
        assert all(client.echoes() for client in other)
        replaced = serves(server.url, lambda pid: pid not in (killed[0].pid, other[0].pid))
        # Again and again.
        (tmp_path / "dies").touch()
        os.kill(replaced, signal.SIGKILL)
        assert "SIGKILL" in server.says()
        delays = []
        for _ in range(3):
            match = re.fullmatch(
                r"a worker has died \(exit code 7\); another one starts in ([0-9.]+) s", server.says()
            )
            assert match is not None
            delays.append(float(match[1]))
        assert delays == [delays[0], 2 * delays[0], 4 * delays[0]]
        assert all(client.echoes() for client in other)
        # A reload that would have no workers changes nothing.
        server.send_signal(signal.SIGHUP)
        while "another one starts" in (said := server.says()):
            pass
        assert said == "not reloaded, nothing changed: exit code 7"
        (tmp_path / "dies").unlink()
        serves(server.url, lambda pid: pid != other[0].pid)
        server.terminate()
        assert all(read_all(client.socket) == b"" for client in other)
        code, _out, _error = server.everything()
        # Its standard error has ended: no worker is left that has it.
        assert code == 0


def test_reloading(tmp_path: Path) -> None:
    """
    SIGHUP in the middle of 200 switched connections and 1,000 requests a second: new workers serve with
    the options and the certificate of now, nobody is refused or lost, and the old ones end with their
    last connection. With a broken file, or options that only a worker finds wrong, nothing changes.
    """
    config, pem = tmp_path / "config.toml", tmp_path / "both.pem"
    config.write_text("")
    pem.write_bytes(b"".join(make_certificate()))
    listen = ["--listen", f"ssl:0:privateKey={pem}:interface=127.0.0.1"]
    with ExitStack() as stack, workers("--config", str(config), "--drain", "0", *listen) as server:
        tls = stack.enter_context(connected(server.says().removeprefix("listening on ")))
        before = by_each(stack, server.url, 200)
        everybody = [client for clients in before.values() for client in clients]
        assert len(everybody) >= 200
        load = PacedLoad(server.url, [client.socket for client in everybody])
        load.goes_on()
        for wrong in ("what = 1", 'tunnel = ["/a b nonsense:"]'):
            config.write_text(wrong)
            server.send_signal(signal.SIGHUP)
            assert server.says().startswith("not reloaded, nothing changed: ")
            load.goes_on()
            assert load.asked.keys() == before.keys()
        config.write_text('ready = "/ready"')
        certificate, key = make_certificate()
        pem.write_bytes(certificate + key)
        server.send_signal(signal.SIGHUP)
        assert server.says() == "has reloaded its options"
        load.goes_on()
        # What the old ones have accepted by then is answered; from then on, the new ones accept.
        after = by_each(stack, server.url, 20)
        assert get(server.url, "/ready")[0] == 200
        load.ends()
        assert (load.lost, load.cut) == ([], 0)
        assert all(client.echoes() for client in everybody)
        assert ssl.get_server_certificate(tls.getpeername()) == certificate.decode()
        tls.sendall(b"GET /who HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"onnection: close\r\n" in read_all(tls)
        tls.close()
        assert not before.keys() & after.keys()
        assert before.keys() | after.keys() == load.asked.keys()
        for client in everybody:
            client.close()
        for pid in before:
            wait_for_end(pid)
        assert all(client.echoes() for clients in after.values() for client in clients)
        server.terminate()
        assert server.everything() == (0, b"", b"")


def test_limits() -> None:
    """
    Two workers under a flood have ``--max-switched`` connections together, half of them each; one that
    ends makes room for one, wherever it is asked for. After a moment, an address has no more than it
    may.
    """
    options = ["--max-switched", "100", "--max-per-address", "30", "--drain", "0"]
    options += ["--status", "/status"]
    with ExitStack() as stack, workers(*options) as server:
        host, port = server.url[7:-1].split(":")
        switched: list[tuple[int, socket.socket]] = []

        def flood(source: str) -> int:
            client = socket.create_connection((host, int(port)), PATIENCE, (source, 0))
            client.sendall(upgrade_head(b"who", path=b"/who"))
            got = read_until(client, b"\r\n\r\n")
            if status(got) != 101:
                client.close()
                return status(got)
            stack.callback(client.close)
            client.sendall(b"?")
            switched.append((int(read_until(client, b"\n")), client))
            return 101

        declined = 0
        while declined < 50:
            declined = declined + 1 if flood("127.0.0.2") == 429 else 0
        # Before one knows of the other, each takes as many.
        assert 30 <= len(switched) <= 60
        number = 0
        while len(switched) < 100:
            number += 1
            assert flood(f"127.0.0.{3 + number % 50}") in (101, 503)
        assert {flood(f"127.0.0.{3 + each}") for each in range(50)} == {503}
        assert min(Counter(pid for pid, _ in switched).values()) >= 10
        seen = json.loads(body_of(get(server.url, "/status/json")[1]))
        assert seen["totals"]["live"] == len(seen["switched"]) == 100
        assert len({each["peer"] for each in seen["switched"]}) == 100
        metrics = get(server.url, "/status/metrics")[1].decode()
        assert 'upgrade_switch_switches_total{token="who"} 100.0' in metrics
        # What a worker has counted that dies is not forgotten, as far as it had been seen.
        died = switched[0][0]
        count = sum(pid == died for pid, _ in switched)
        os.kill(died, signal.SIGKILL)
        assert "SIGKILL" in server.says()
        seen = json.loads(body_of(get(server.url, "/status/json")[1]))["totals"]
        assert (seen["live"], seen["switched"]["who"]) == (100 - count, 100)
        assert seen["ended"]["who"] == {"process died": count}
        switched = [each for each in switched if each[0] != died]
        while len(switched) < 100:
            number += 1
            assert flood(f"127.0.0.{3 + number % 50}") in (101, 503)
        switched.pop()[1].close()
        while flood("127.0.1.1") != 101:
            pass
        assert flood("127.0.1.1") == 503
        server.terminate()
        assert server.everything() == (0, b"", b"")


def test_systemd(tmp_path: Path) -> None:
    """
    With a socket of systemd's, which is told when they are ready, reloading and ready again. If the
    parent is killed, no worker stays.
    """
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.settimeout(PATIENCE)
    manager.bind(str(tmp_path / "notify"))
    path = str(tmp_path / "web")
    listen = ["systemd-socket-activate", "--listen", path, "--fdname", "web"]
    passed = [f"--setenv={name}" for name in ("PYTHONPATH", "NOTIFY_SOCKET")]
    options = ["--listen", "systemd:domain=UNIX:index=0", "--workers", "2", "--drain", "0", *WHO]
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
    command = [*listen, *passed, COMMAND, "serve", "--log-format", "none", *options]
    with manager, ExitStack() as stack, Program(command, env=environment) as server:
        assert server.stderr.readline().startswith(b"Listening on")
        # The first client starts it.
        connected(path).close()
        assert manager.recv(100) == b"READY=1"
        before = by_each(stack, path, 2)
        server.send_signal(signal.SIGHUP)
        assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert manager.recv(100) == b"READY=1"
        after = by_each(stack, path, 2)
        assert not before.keys() & after.keys()
        server.kill()
        assert server.wait() == -signal.SIGKILL
        # Its standard error ends when no worker has it any more.
        said = server.stderr.read().splitlines(keepends=True)
    assert one_line(said[-1]) == "has reloaded its options"


def test_twist() -> None:
    """The same as a plugin of twist: workers, a reload, and an end that is a success."""
    options = ["--listen", LOCAL, "--workers", "2", *WHO]
    with Operated([TWIST, "upgrade-switch"], *options) as server:
        url = server.listens()
        before = {serves(url, lambda _: True)}
        before.add(serves(url, lambda pid: pid not in before))
        server.send_signal(signal.SIGHUP)
        serves(url, lambda pid: pid not in before)
        server.terminate()
        assert server.everything()[0] == 0
        for pid in before:
            wait_for_end(pid)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--workers", "0"], "a whole number from 1 to 1000, or auto"),
        (["--workers", "-1"], "a whole number from 1 to 1000, or auto"),
        (["--workers", "1001"], "a whole number from 1 to 1000, or auto"),
        (["--workers", "9" * 5000], "a whole number from 1 to 1000, or auto"),
        (["--workers", "many"], "a whole number from 1 to 1000, or auto"),
        (["--workers", "2", "--listen", "stdio:"], "cannot inherit"),
        (["--retire", "-1"], "--retire needs a number of seconds, not '-1'"),
        (["--retire", "nan"], "--retire needs a number of seconds, not 'nan'"),
        (["--retire", "later"], "--retire needs a number of seconds, not 'later'"),
        (["--workers", "1", "--listen", LOCAL, "--tunnel", "/a b nonsense:"], "not a client endpoint"),
    ],
)
def test_misuse(options: list[str], why: str) -> None:
    """What is no number, what cannot be inherited, and what only a worker finds wrong: exit code 2."""
    assert why in fails(2, "serve", *options)
