"""
TLS by upgrade with the programs that ask for it: those of CUPS.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.utils import getProcessOutputAndValue
from twisted.web.resource import Resource

from tests.kit.foreign import find
from tests.kit.harness import patient
from tests.kit.securing import tls_site
from upgrade_switch.protocols import tls_required

#: What ipptool is to send, and what it is to see.
TEST = """
{
    NAME "Printers"
    OPERATION CUPS-Get-Printers
    GROUP operation-attributes-tag
    ATTR charset attributes-charset utf-8
    ATTR naturalLanguage attributes-natural-language en
    STATUS successful-ok
    EXPECT printer-name OF-TYPE name IN-GROUP printer-attributes-tag WITH-VALUE "secret"
}
"""


class Printer(Resource):
    """
    Answers every IPP request alike: with one printer (RFC 8010).

    :ivar seen: whether each was secure, and its operation.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, int]] = []

    def render_POST(self, request: Any) -> bytes:
        asked = request.content.read()
        self.seen.append((request.isSecure(), int.from_bytes(asked[2:4], "big")))
        request.setHeader(b"content-type", b"application/ipp")
        # The request's version, successful-ok, and the request's id.
        return (
            asked[:2]
            + b"\0\0"
            + asked[4:8]
            + b"\x01"
            + attribute(0x47, b"attributes-charset", b"utf-8")
            + attribute(0x48, b"attributes-natural-language", b"en")
            + b"\x04"
            + attribute(0x42, b"printer-name", b"secret")
            + attribute(0x23, b"printer-state", b"\0\0\0\x03")
            + b"\x03"
        )


def attribute(tag: int, name: bytes, value: bytes) -> bytes:
    """An attribute with one value, as it is on the wire."""
    return bytes([tag]) + len(name).to_bytes(2, "big") + name + len(value).to_bytes(2, "big") + value


async def run(name: str, home: Path, *arguments: str) -> tuple[str, int]:
    """Run a program: what it says, and its exit code."""
    # Under HOME it keeps the certificates that it has seen, and has nobody's settings.
    environment = {**os.environ, "HOME": str(home), "LC_ALL": "C"}
    out, error, code = await patient(
        getProcessOutputAndValue(find(name), arguments, environment, path=str(home))
    )
    return (out + error).decode(), code


@pytest.fixture
def printer() -> Printer:
    return Printer()


@pytest_twisted.async_yield_fixture
async def listening(listen: Any, printer: Printer) -> Any:
    """A server that prints inside TLS only."""
    site = tls_site(any_request=False)
    site.resource = tls_required(printer)
    yield await listen("tcp", site)


@pytest_twisted.ensureDeferred
async def test_ipptool(listening: Any, printer: Printer, tmp_path: Path) -> None:
    """``ipptool -E`` upgrades, and has its test pass inside."""
    (tmp_path / "printers.test").write_text(TEST)
    port = listening.port.getHost().port
    said, code = await run(
        "ipptool", tmp_path, "-E", "-tv", f"ipp://localhost:{port}/", "printers.test"
    )
    assert code == 0, said
    assert "[PASS]" in said
    assert printer.seen == [(True, 0x4002)]
    assert [line[0] for line in listening.site.lines] == [101, 200, 200]


@pytest_twisted.ensureDeferred
async def test_ipptool_in_the_clear(listening: Any, printer: Printer, tmp_path: Path) -> None:
    """Without ``-E``, ipptool upgrades when the server answers 426."""
    (tmp_path / "printers.test").write_text(TEST)
    port = listening.port.getHost().port
    said, code = await run("ipptool", tmp_path, "-tv", f"ipp://localhost:{port}/", "printers.test")
    assert code == 0, said
    assert printer.seen == [(True, 0x4002)]
    assert listening.site.lines[0] == (426, b"/")


@pytest_twisted.ensureDeferred
async def test_lpstat(listening: Any, printer: Printer, tmp_path: Path) -> None:
    """``lpstat -E`` upgrades, and sees the server's printers inside."""
    port = listening.port.getHost().port
    said, code = await run("lpstat", tmp_path, "-E", "-h", f"localhost:{port}", "-e")
    assert (said.strip(), code) == ("secret", 0)
    assert printer.seen
    assert all(secure for secure, _operation in printer.seen)
    assert listening.site.lines[0] == (101, b"*")
