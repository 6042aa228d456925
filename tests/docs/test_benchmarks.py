"""What make benchmark writes is that of its results, and its load does what it says."""

from __future__ import annotations

import copy
import importlib
import json
import os
import shutil
import socketserver
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.kit import ROOT

SVG = "{http://www.w3.org/2000/svg}"
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
TABLE = "an echo of 128 bytes"
RESULTS: dict[str, Any] = {
    "system": "Python 3 & Linux",
    "date": "2026-01-01",
    "is_quick": False,
    "sections": {
        "switching": {
            "title": "Switching",
            "rounds": 3,
            "servers": {"raw": "a Twisted protocol", "service": "UpgradeSite", "go": "Go"},
            "missing": {"node": "there is no node"},
            "tables": {
                "a switch": {
                    "CPU, µs": {"raw": [55, 50, 60], "service": [140, 100, 120], "go": [7.5, 7, 8]},
                    "a second": {"raw": [100, 90, 110], "service": [80, 80, 80], "go": [900, 800, 990]},
                    "server busy, %": {
                        "raw": [99, 99, 99],
                        "service": [99, 98, 99],
                        "go": [50, 60, 70],
                    },
                    "load busy, %": {"raw": [40, 40, 40], "service": [95, 95, 95], "go": [97, 98, 99]},
                },
                TABLE: {"CPU, µs": {"raw": [20, 20, 20], "service": [12, 12, 12]}},
            },
            "goals": [
                {
                    "figure": "a switch: CPU, µs",
                    "ours": "service",
                    "than": "raw",
                    "ratio": 2.181818,
                    "sign": "<=",
                    "limit": 1.8,
                }
            ],
        }
    },
}


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Their folder, from which modules can be imported."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return ROOT / "benchmarks"


def test_page_and_picture_are_those_of_the_results(benchmarks: Path) -> None:
    """RESULTS.md and speed.svg show what is in results.json; if not, make benchmark has to be run."""
    everything = importlib.import_module("everything")
    report = importlib.import_module("report")
    results = json.loads(everything.DATA.read_text())
    assert everything.PAGE.read_text() == report.page_of(results)
    assert everything.PICTURE.read_text() == report.picture_of(results)
    assert everything.DATA.read_text() == everything.as_text(results)


def test_every_program_is_run(benchmarks: Path) -> None:
    """make benchmark forgets none of the programs that leave results."""
    everything = importlib.import_module("everything")
    programs = {path.stem for path in benchmarks.glob("*.py") if "publish(" in path.read_text()}
    assert programs - {"figures"} == {*everything.PROGRAMS}


def test_tables(benchmarks: Path) -> None:
    """A table has a server's median and range, and says where the load may have been the limit."""
    page = importlib.import_module("report").page_of(RESULTS)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    assert ["`raw`", "55 (50 to 60)", "100 (90 to 110)", "99", "40"] in cells
    # The load was busy, but so was the server; and where only the load was busy.
    assert ["`service`", "120 (100 to 140)", "80 (80 to 80)", "99", "95"] in cells
    assert ["`go`", "7.5 (7 to 8)", "900 (800 to 990) †", "60", "98"] in cells
    assert ["a switch: CPU, µs", "`service` to raw", "2.18", "<= 1.8", "**missed**"] in cells
    assert "- `node` was left out: there is no node" in page


def test_tables_of_one_figure_are_joined(benchmarks: Path) -> None:
    """Tables that have nothing but the same figure of the same servers are one table."""
    section = copy.deepcopy(RESULTS["sections"]["switching"])
    section["tables"] = {
        "GET": {"CPU, µs": {"raw": [1.0], "go": [2.0]}},
        "POST": {"CPU, µs": {"raw": [3.0], "go": [4.0]}},
        "memory": {"KiB": {"raw": [5.0], "go": [6.0]}},
    }
    lines = list(importlib.import_module("report").tables_of(section))
    assert "| CPU, µs | GET | POST |" in lines
    assert "| `go`    |   2 |    4 |" in lines
    assert "| memory | KiB |" in lines


def test_picture(benchmarks: Path) -> None:
    """The picture has bars as long as the medians are, and ours are marked."""
    picture = ElementTree.fromstring(importlib.import_module("report").picture_of(RESULTS))
    texts = [each.text for each in picture.iter(f"{SVG}text")]
    assert {"raw Twisted, no HTTP", "upgrade_switch", "Go net/http"} <= {*texts}
    assert any(text and text.startswith("Python 3 & Linux") for text in texts)
    widths: dict[str, list[float]] = {"ours": [], "theirs": []}
    for bar in picture.iter(f"{SVG}rect"):
        if bar.get("class") in widths:
            widths[bar.attrib["class"]].append(float(bar.attrib["width"]))
    # A switch's, and an echo's.
    assert len(widths["ours"]) == 2
    assert len(widths["theirs"]) == 3
    assert widths["theirs"][1] / widths["ours"][0] == pytest.approx(55 / 120, rel=0.01)
    style = picture.find(f"{SVG}style")
    assert style is not None
    assert "prefers-color-scheme: dark" in (style.text or "")


class Handler(socketserver.BaseRequestHandler):
    """Switches if it is asked to, and echoes; the server counts what has been done."""

    def handle(self) -> None:
        first = self.request.recv(65536)
        if first == HEAD:
            # In two parts.
            self.request.sendall(ANSWER[:30])
            self.request.sendall(ANSWER[30:])
            first = b""
        self.server.connections += 1  # type: ignore[attr-defined]
        while data := first or self.request.recv(65536):
            first = b""
            self.server.echoed += len(data)  # type: ignore[attr-defined]
            self.request.sendall(data)


class Refusing(socketserver.BaseRequestHandler):
    """Does not switch."""

    def handle(self) -> None:
        self.request.recv(65536)
        self.request.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        self.request.recv(65536)


class Threading(socketserver.ThreadingTCPServer):
    """With room for many at a time: a connection that finds none tries again after a second."""

    request_queue_size = 64


@pytest.fixture
def server() -> Iterator[Any]:
    """One that echoes, in a thread."""
    with serving(Handler) as server:
        yield server
        server.shutdown()


def serving(handler: type[socketserver.BaseRequestHandler]) -> Any:
    server: Any = Threading(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.connections = server.echoed = 0
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


@pytest.fixture(params=["C", "Python"])
def load(benchmarks: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """Each of the two that make the load."""
    load = importlib.import_module("load")
    if request.param == "Python":
        program = (sys.executable, str(benchmarks / "load.py"))
        monkeypatch.setattr(load, "_program", lambda: program)
    elif not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    assert load.is_compiled() == (request.param == "C")
    return load


@pytest.mark.parametrize("head", [b"", HEAD])
def test_load(load: Any, server: Any, head: bytes) -> None:
    """Both loads do as much as they are told, and say how long it took, and what of it was theirs."""
    at = importlib.import_module("processes").Server("x", server.server_address[1], os.getpid())
    said = load.Dialogue(head, bytes(1000), 1000)
    done = load.switch_many(at, said, 20, parallel=3)
    assert (server.connections, server.echoed) == (20, 20_000)
    assert done.times == 20
    assert 0 < done.percentile(50) <= done.percentile(99) <= done.seconds
    assert min(done.cpu, done.load_cpu) > 0
    # Each of the three has been through it once when the echoes begin.
    parts = [done, load.echo_many(at, said, 3, 7)]
    assert (server.connections, server.echoed) == (23, 44_000)
    both = load.together(parts)
    assert (both.times, len(both.took)) == (41, 41)
    assert both.cpu == sum(part.cpu for part in parts)
    with load.idle(at, said, 5):
        assert (server.connections, server.echoed) == (28, 49_000)


def test_load_without_a_message(load: Any, server: Any) -> None:
    """Without a message, a switch ends at the 101."""
    at = importlib.import_module("processes").Server("x", server.server_address[1], os.getpid())
    assert load.switch_many(at, load.Dialogue(HEAD, b"", 0), 10).times == 10
    assert server.echoed == 0


def test_load_at_a_server_that_is_wrong(load: Any) -> None:
    """A server that does not switch is no result."""
    processes = importlib.import_module("processes")
    with serving(Refusing) as server:
        at = processes.Server("x", server.server_address[1], os.getpid())
        with pytest.raises(processes.Wrong):
            load.switch_many(at, load.Dialogue(HEAD, bytes(16), 16), 10)
        server.shutdown()
