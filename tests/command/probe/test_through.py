"""``upgrade-switch probe --through``: proxies, good ones and others, with the probe behind them."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.kit.certificate import make_certificate
from tests.kit.commands import LOCAL, PATIENCE, Process, fails, listening, read_until, run
from tests.kit.dishonest import SILENT, WRONG, HasNoVia
from tests.kit.documented import DOCS, Ports, blocks_of, sessions
from tests.kit.foreign import find, needs
from tests.kit.fronts import haproxy, nginx
from tests.kit.honest import Honest
from upgrade_switch.command.probe.checks.check import Group, Level
from upgrade_switch.command.probe.checks.through import GROUPS
from upgrade_switch.command.probe.farside import FarSide
from upgrade_switch.command.probe.running import Outcome, run_checks
from upgrade_switch.command.probe.subject import Subject
from upgrade_switch.command.probe.through import reached

PAGE = "howto/probe-proxies.md"
# Of a proxy that passes no upgrade.
EASY = {"upgrade-passes"}
ONLY_WEBSOCKET = {"websocket-fields", "websocket-frames"}
NAMES = [check.name for group in GROUPS for check in group.checks]


def outcomes_of(
    kind: type[Honest], *, only: Collection[str] = NAMES, timeout: float = PATIENCE
) -> list[Outcome]:
    """What the checks, or some of them, say of a proxy of the kit's."""
    groups = [Group(g.title, checks=[c for c in g.checks if c.name in only]) for g in GROUPS]
    with Ports() as ports:
        behind = int(ports["far"])
        with kind(behind) as proxy:
            token = next(iter(kind.tokens), "raw")
            subject = Subject(f"http://127.0.0.1:{proxy.port}/", token, idle=0.1, timeout=PATIENCE)
            with reached(subject, "127.0.0.1", behind) as passage:
                own = replace(passage, timeout=timeout)
                return list(run_checks(groups, own, PATIENCE, jobs=8))


def failed(outcomes: Collection[Outcome]) -> dict[str, str]:
    return {outcome.check.name: outcome.detail for outcome in outcomes if outcome.result == "fail"}


@pytest.mark.parametrize("token", ["raw", "websocket"])
def test_honest(token: str) -> None:
    """A proxy that does what it should passes everything."""

    class Passing(Honest):
        tokens = (token,)

    outcomes = outcomes_of(Passing)
    assert failed(outcomes) == {}
    skipped = {outcome.check.name for outcome in outcomes if outcome.result == "skipped"}
    assert skipped == (ONLY_WEBSOCKET if token == "raw" else set())


@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
def test_wrong(kind: type[Honest]) -> None:
    """Of a proxy that is wrong in one thing, exactly that is found."""
    found = failed(outcomes_of(kind))
    assert {*found} == WRONG[kind], found


@pytest.mark.parametrize("kind", SILENT, ids=lambda kind: kind.__name__)
def test_silent(kind: type[Honest]) -> None:
    """What never comes is a failure, too."""
    found = failed(outcomes_of(kind, only=SILENT[kind], timeout=0.2))
    assert {*found} == SILENT[kind], found


def test_all_can_fail() -> None:
    """There is a proxy for each check that finds something."""
    assert {*NAMES} - set().union(*WRONG.values(), *SILENT.values()) == EASY


def test_no_upgrade() -> None:
    """Of a proxy that passes no upgrade, it is said once; what needs none is checked nevertheless."""

    class Closed(Honest):
        tokens = ()

    outcomes = outcomes_of(Closed)
    assert {*failed(outcomes)} == {"upgrade-passes"}
    assert {o.detail for o in outcomes if o.result == "skipped"} == {"the plain upgrade does not work"}
    assert "via" in {outcome.check.name for outcome in outcomes if outcome.result == "pass"}


def test_checks() -> None:
    """Each check has a name of its own, a section and a sentence."""
    assert len(NAMES) == len({*NAMES})
    for group in GROUPS:
        for check in group.checks:
            assert check.section.startswith("RFC "), check
            assert check.sent.endswith("."), check
            # It stands between others in a report.
            assert ";" not in check.sent, check


def probed(port: int, behind: str, *options: str) -> dict[str, Any]:
    """What the command says of a proxy: its checks by name."""
    through = ("--through", f"http://127.0.0.1:{port}/", "--listen", f"127.0.0.1:{behind}")
    done = run("probe", *through, "--json", "--jobs", "4", *options)
    assert done.stderr == b""
    found = {each["check"]: each for each in json.loads(done.stdout)}
    assert list(found) == NAMES
    is_bad = any(each["result"] == "fail" and each["level"] == Level.MUST for each in found.values())
    assert done.returncode == (1 if is_bad else 0)
    return found


def failing(found: dict[str, Any]) -> set[str]:
    return {name for name, each in found.items() if each["result"] == "fail"}


@contextmanager
def our_own(listen: str, behind: str, token: str) -> Iterator[str]:
    """``serve --proxy``, which logs each back end's fault: its URL."""
    proxy = ("--proxy", f"/ http://127.0.0.1:{behind} tokens={token}")
    with Process("serve", "--listen", listen, *proxy, stdin=None, stdout=None) as process:
        yield process.says().removeprefix("listening on ")
        process.terminate()
        code, _, log = process.ends()
        assert code == 0
        assert b"Traceback" not in log, log


@pytest.mark.parametrize("token", ["websocket", "echo"])
def test_our_own(token: str) -> None:
    """This package's proxy passes everything."""
    with Ports() as ports:
        behind = ports["far"]
        with our_own(LOCAL, behind, token) as url:
            port = int(url.rstrip("/").rpartition(":")[2])
            found = probed(port, behind, token)
    assert [found[name] for name in sorted(failing(found))] == []


def documented() -> tuple[list[str], list[list[str]]]:
    """The table of a page: who is in its columns, in their versions, and its rows."""
    head, *rows = re.findall(r"^\| (.*) \|$", (DOCS / PAGE).read_text(), re.MULTILINE)
    return head.split(" | ")[2:], [[cell.strip() for cell in row.split("|")] for row in rows]


@pytest.mark.parametrize(
    ("front", "check"),
    [
        pytest.param(nginx, "", marks=needs("nginx"), id="nginx"),
        # It asks whether its server lives, which begins to listen after it.
        pytest.param(haproxy, " check inter 100ms", marks=needs("haproxy"), id="haproxy"),
    ],
)
def test_others(front: Any, check: str, tmp_path: Path) -> None:
    """nginx and haproxy leave out what is on the page; other versions may do better."""
    with Ports() as ports:
        behind = ports["far"]
        with front(tmp_path, "echo", f"127.0.0.1:{behind}{check}") as port:
            # What never comes takes all of this time.
            found = probed(port, behind, "--timeout", "10")
    columns, rows = documented()
    (column,) = (n for n, name in enumerate(columns) if name.startswith(front.__name__))
    known = {row[0] for row in rows if row[2 + column] == "fails"}
    assert {name: found[name] for name in failing(found) - known} == {}
    version = columns[column].rpartition(" ")[2]
    said = subprocess.run([find(front.__name__), "-v"], capture_output=True, check=True)
    if version.encode() in said.stdout + said.stderr:
        assert known - failing(found) == set()


def test_the_page() -> None:
    """The command and the failure on the page, and the names and levels in its table."""
    levels = {check.name: check.level for group in GROUPS for check in group.checks}
    assert [row[1] for row in documented()[1]] == [levels[row[0]] for row in documented()[1]]
    command, failure = (block.text for block in blocks_of(PAGE))
    words = shlex.split(sessions(command)[0].command)
    with Ports() as ports, HasNoVia(int(ports["9000"])) as proxy:
        changed = [
            re.sub("8080", str(proxy.port), word.replace("9000", ports["9000"])) for word in words
        ]
        said = run(*changed[1:], "raw", "--jobs", "4").stdout.decode()
    for line in failure.splitlines():
        assert " ".join(line.split()) in " ".join(said.split())


def test_over_tls(tmp_path: Path) -> None:
    """A proxy may be asked over TLS; what TLS cannot tell is skipped, with a reason."""
    both = tmp_path / "both.pem"
    both.write_bytes(b"".join(make_certificate()))
    secure = f"ssl:0:interface=127.0.0.1:privateKey={both}:certKey={both}"
    with Ports() as ports:
        behind = ports["far"]
        with our_own(secure, behind, "websocket") as url:
            through = ("--through", url, "--listen", f"127.0.0.1:{behind}")
            done = run("probe", *through, "--ca", str(both), "--jobs", "4")
    assert done.returncode == 0, done.stdout.decode()
    assert b"without TLS" in done.stdout


def test_verbose() -> None:
    """With --verbose, the bytes of both sides are shown; without a terminal, there is no progress."""
    with Ports() as ports, Honest(int(ports["far"])) as proxy:
        through = ("--through", f"http://127.0.0.1:{proxy.port}/a?b=c", "--listen")
        done = run("probe", *through, f"127.0.0.1:{ports['far']}", "raw", "--verbose", "--jobs", "4")
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    for begin in (
        "> GET /a?b=c&probe-",
        "far < GET /a?b=c&probe-",
        "far > HTTP/1.1 101 ",
        "< HTTP/1.1 ",
    ):
        assert any(line.strip().startswith(begin) for line in lines), begin
    assert lines[-1].endswith("3 skipped")


def test_strangers() -> None:
    """Whoever else comes to the far side is answered, and neither a crowd nor a long head stops it."""
    with FarSide("127.0.0.1", 0) as far_side:
        address = ("127.0.0.1", int(far_side.address.rpartition(":")[2]))
        crowd = [socket.create_connection(address) for _ in range(129)]
        refused = crowd[-1]
        refused.settimeout(PATIENCE)
        assert refused.recv(1) == b""
        asking = crowd[0]
        asking.settimeout(PATIENCE)
        for number in range(2):
            asking.sendall(b"GET /?probe-%d HTTP/1.1\r\nHost: h\r\n\r\n" % number)
            assert read_until(asking, b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
        asking.sendall(b"GET /" + bytes(1 << 20))
        with suppress(ConnectionResetError):
            assert asking.recv(1) == b""
    for each in crowd:
        each.close()


def test_proxy_that_forwards_elsewhere() -> None:
    """A proxy that answers itself: one line says what to configure, and the exit code is 3."""

    class Elsewhere(Honest):
        def is_ambiguous(self, head: Any) -> bool:
            return True

    with Ports() as ports, Elsewhere(int(ports["far"])) as proxy:
        url, listen = f"http://127.0.0.1:{proxy.port}/", f"127.0.0.1:{ports['far']}"
        line = fails(3, "probe", "--through", url, "--listen", listen, "--timeout", "0.5")
    assert line.startswith(f"probe: no request to {url} has arrived at {listen} (")
    assert line.endswith(f"): configure the proxy to forward to http://{listen}")


def test_no_proxy() -> None:
    """Nobody, or nobody who speaks HTTP, is at the URL; or somebody else listens already."""

    def says_ssh(client: socket.socket) -> None:
        read_until(client, b"\r\n\r\n")
        client.sendall(b"SSH-2.0-x\r\n")

    with Ports() as ports:
        listen = ("--listen", f"127.0.0.1:{ports['far']}")
        line = fails(3, "probe", "--through", f"http://127.0.0.1:{ports['proxy']}/", *listen)
        assert line.startswith(f"probe: no proxy at 127.0.0.1:{ports['proxy']}: no connection to ")
        with listening(says_ssh) as port:
            line = fails(3, "probe", "--through", f"http://127.0.0.1:{port}/", *listen)
            assert line == f"probe: 127.0.0.1:{port} speaks SSH, not HTTP"
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        line = fails(3, "probe", "--through", "http://127.0.0.1/", "--listen", address)
        assert line == f"probe: cannot listen on {address}: Address already in use"


_BOTH = ("--through", "http://h/", "--listen", "127.0.0.1:9000")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (_BOTH[:2], "--through URL and --listen HOST:PORT need each other"),
        (("http://h/", *_BOTH[2:]), "--through URL and --listen HOST:PORT need each other"),
        ((*_BOTH[:3], "9000"), "--listen needs HOST:PORT, not '9000'"),
        ((*_BOTH[:3], "h:0"), "--listen needs HOST:PORT, not 'h:0'"),
        ((*_BOTH, "--conformance"), "--conformance and --through cannot be combined"),
        ((*_BOTH, "a", "b"), "--conformance and --through check one TOKEN"),
        ((*_BOTH, "http://h/"), "not an upgrade token (name or name/version): 'http://h/'"),
        (("--through", "ftp://h/", *_BOTH[2:]), "not a ws or wss URL: 'ftp://h/'"),
    ],
)
def test_usage(arguments: tuple[str, ...], line: str) -> None:
    """What cannot be meant."""
    assert fails(2, "probe", *arguments).removeprefix("probe: ").startswith(line)
