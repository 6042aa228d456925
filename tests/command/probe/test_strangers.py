"""
What hostile servers do to the probe, and those that do not speak HTTP: one line, or a report
that a terminal can show; the exit code; and bounds for time and memory.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.kit.commands import PATIENCE, Process, read_until, run
from tests.kit.documented import Ports
from tests.kit.strangers import (
    LONG_FIELD,
    Talk,
    after_a_request,
    closing,
    endless,
    says,
    silent,
    talking,
)
from tests.kit.switching import SwitchingServer
from upgrade_switch.command.main import main
from upgrade_switch.command.probe.checks import GROUPS
from upgrade_switch.command.probe.checks.check import Group
from upgrade_switch.command.probe.running import run_checks
from upgrade_switch.command.probe.subject import Subject
from upgrade_switch.command.probe.wire import Deadline, Transcript, Wire

SHORT = ("--timeout", "0.4")
"""For servers that do not answer in time."""

MODES = ("plain", "--conformance", "--through")

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


def arguments(mode: str, port: int, behind: str, scheme: str = "http") -> Sequence[str]:
    """The command line for a server or a proxy at this port."""
    url = f"{scheme}://127.0.0.1:{port}/"
    if mode == "--through":
        return ("probe", "--through", url, "--listen", f"127.0.0.1:{behind}")
    return ("probe", *([mode] if mode != "plain" else []), url)


def memory() -> int:
    """The most kilobytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("talk", "line"),
    [
        (says(b"SSH-2.0-OpenSSH_9.2\r\n"), "127.0.0.1:PORT speaks SSH, not HTTP"),
        (says(b"\x15\x03\x01\x00\x02\x02\x46"), "speaks TLS: the URL has to begin with https"),
        (after_a_request(b"HTTP/1.1 200 OK\r\n\x1b[2J: \xff\r\n\r\n"), "no HTTP response"),
        (endless(b"HTTP/1.1 200 OK\r\nA: ", LONG_FIELD), "Receive buffer too long"),
        (endless(b"HTTP/1.1 101 OK\r\n", b"A: b\r\n" * 1000), "Receive buffer too long"),
        (endless(b"", b"\0" * 65536), "no HTTP response: "),
    ],
)
def test_no_http(talk: Talk, line: str, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What does not speak HTTP gets one line, and exit code 3, without much memory."""
    before = memory()
    with Ports() as ports, talking(talk) as port:
        assert main([*arguments(mode, port, ports["far"]), "--timeout", str(PATIENCE)]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch("upgrade-switch: probe: .+\n", said.err), said.err
    assert len(said.err) < 600
    assert re.search(line.replace("PORT", str(port)), said.err), said.err
    assert memory() - before < 32768


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "talk",
    [
        silent,
        closing,
        after_a_request(b"HTTP/1.1 200 OK\r\nX"),
        endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100),
    ],
)
def test_no_end(talk: Talk, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    """So does what never comes to an end, when the time is over."""
    begin = time.monotonic()
    with Ports() as ports, talking(talk) as port:
        assert main([*arguments(mode, port, ports["far"]), *SHORT]) == 3
    assert time.monotonic() - begin < PATIENCE
    said = capsys.readouterr().err
    assert re.fullmatch("upgrade-switch: probe: .+\n", said), said
    assert "within 0.4 s" in said or "the end of the connection" in said


@pytest.mark.parametrize("mode", MODES)
def test_a_head_of_2_gigabytes(mode: str) -> None:
    """It is given up early."""
    sent = 0

    def talk(client: socket.socket) -> None:
        nonlocal sent
        client.sendall(b"HTTP/1.1 200 OK\r\n")
        while sent < 2 << 30:
            client.sendall(LONG_FIELD)
            sent += len(LONG_FIELD)

    before = memory()
    with Ports() as ports, talking(talk) as port:
        assert main([*arguments(mode, port, ports["far"]), "--timeout", str(PATIENCE)]) == 3
    # What the kernel takes beside what is read, for a few connections.
    assert sent < 256 << 20
    assert memory() - before < 32768


@pytest.mark.parametrize("mode", MODES)
def test_tls_where_there_is_none(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A URL with https of a server that answers a ClientHello in HTTP."""
    talk = says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    with Ports() as ports, talking(talk) as port:
        assert main([*arguments(mode, port, ports["far"], "https"), "--insecure"]) == 3
    said = f"127.0.0.1:{port} does not speak TLS: the URL has to begin with http"
    assert capsys.readouterr().err == f"upgrade-switch: probe: {said}\n"


@pytest.mark.parametrize(
    ("talk", "line"),
    [
        (silent, "no connection to 127.0.0.1:PORT (timed out)"),
        (
            # A ServerHello with a session id that is too long.
            says(b"\x16\x03\x03\x40\x00\x02\x00\x30\x00" + bytes(range(256)) * 64),
            "no connection to 127.0.0.1:PORT (TLS: ssl3 session id too long)",
        ),
    ],
)
def test_handshakes(talk: Talk, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """TLS that does not come about: in plain words."""
    time_out = SHORT if talk is silent else ("--timeout", str(PATIENCE))
    with talking(talk) as port:
        assert main([*arguments("plain", port, "", "https"), "--insecure", *time_out]) == 3
    assert capsys.readouterr().err.endswith(f"{line.replace('PORT', str(port))}\n")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        SWITCH,
        # h11 lets pass what is above ASCII, and escapes in a phrase and in values.
        b"HTTP/1.1 101 \x1b[2J\x9b2J\xe2\x80\xae\r\nUpgrade: \x1b]0;x\x07, \xff\r\n\r\n\x1b[2J\0",
        b"HTTP/1.1 426 %b\r\nn%b: 1\r\nUpgrade: ok, %b\r\nConnection: %b\r\nContent-Length: 0\r\n\r\n"
        % (b"P" * 15000, b"n" * 15000, b"t" * 15000, b"c" * 15000),
        b"HTTP/1.1 101 %b\r\nUpgrade: %b\r\nConnection: %b\r\n\r\n" % ((b"x" * 20000,) * 3),
        b"HTTP/1.1 426 x; came: y; expected: z\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["endless content", "endless bytes", "escapes", "long names", "long 101", "a forged line"],
)
def test_reports(answer: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """
    What a server says does nothing to a terminal, and does not fill one; endless bytes fill no memory;
    and all of it ends in time.
    """
    before = memory()
    bounds = (*SHORT, "--within", "3", "--jobs", "64")
    with talking(endless(answer, b"x" * 65536)) as port:
        for options in ((), ("--json",)):
            plain = [
                *arguments(
                    "plain",
                    port,
                    "",
                ),
                "echo",
                *options,
            ]
            assert main([*plain, *bounds]) in (0, 3)
            begin = time.monotonic()
            assert main([*plain, *bounds, "--conformance"]) in (0, 1, 3)
            assert time.monotonic() - begin < PATIENCE
    said = capsys.readouterr()
    for line in (said.out + said.err).splitlines():
        assert line.isprintable(), line
        assert len(line) < 1500, line
        assert not line.strip().startswith("expected: z"), line
    assert memory() - before < 262144


def test_a_byte_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that goes on and on, but slowly: the time for all is over, and that is said."""
    upgrades: list[bytes] = []

    def talk(client: socket.socket) -> None:
        request = read_until(client, b"\r\n\r\n")
        if b"Upgrade" not in request:
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return
        upgrades.append(request)
        if len(upgrades) == 1:
            # The plainest upgrade, which is tried in front of all.
            client.sendall(SWITCH + b"probe: are you there?")
            silent(client)
        # Until the probe has gone.
        client.settimeout(0.05)
        for byte in itertools.chain(SWITCH[:20], itertools.repeat(ord("a"))):
            client.sendall(bytes([byte]))
            with suppress(TimeoutError):
                if not client.recv(1):
                    return

    with talking(talk) as port:
        begin = time.monotonic()
        command = [*arguments("--conformance", port, ""), "echo", "--json", "--within", "2"]
        assert main([*command, "--timeout", str(PATIENCE)]) == 0
        assert time.monotonic() - begin < PATIENCE
    said = capsys.readouterr()
    found = json.loads(said.out)
    # The first of them was at work.
    assert len(upgrades) == 2
    reasons = {each["detail"] for each in found if each["result"] == "skipped"}
    assert reasons == {"the time for all checks was over"}
    count = f"{len(found)} of {len(found)}"
    assert said.err == f"upgrade-switch: probe: skipped {count} checks: {reasons.pop()} (--within)\n"


@pytest.mark.parametrize("jobs", ["1", "64"])
def test_interrupted(jobs: str) -> None:
    """Ctrl-C ends it at once, whatever is at work: nobody waits for a server that does not answer."""
    answers = (
        b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n",
        # To the plainest upgrade, which is tried in front of all.
        SWITCH + b"probe: are you there?",
        # To the first check.
        b"",
    )
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
        server.settimeout(PATIENCE)
        command = arguments("--conformance", server.getsockname()[1], "")
        options = ("--timeout", "250", "--jobs", jobs)
        process = stack.enter_context(Process(*command, "echo", *options))
        for answer in answers:
            client = stack.enter_context(server.accept()[0])
            client.settimeout(PATIENCE)
            read_until(client, b"\r\n\r\n")
            client.sendall(answer)
        process.send_signal(signal.SIGINT)
        assert process.ends() == (1, b"", b"upgrade-switch: probe: interrupted\n")


@pytest.fixture(scope="module")
def refusing() -> Iterator[str]:
    """The URL of a server that never switches: its report fails at MUST."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with talking(after_a_request(answer)) as port:
        yield f"http://127.0.0.1:{port}/"


CHECK = ("probe", "--conformance", "--jobs", "16", "--timeout", str(PATIENCE))


def test_output_that_nobody_reads(refusing: str) -> None:
    """The exit code is that of what was found, also if the reader of the report has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(*CHECK, refusing, stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_that_cannot_be_written(refusing: str) -> None:
    """A report that is lost is said."""
    with open("/dev/full", "wb") as full:
        done = run(*CHECK, refusing, stdout=full)
    line = b"upgrade-switch: cannot write the output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, line)


def test_a_terminal_without_section_signs(refusing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They become question marks."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main([*CHECK, refusing]) == 1
    assert b"RFC 9110 ?7.8" in written.getvalue()


class Pieces(socket.socket):
    """A connection from which these segments come."""

    def __init__(self, *pieces: bytes) -> None:
        super().__init__()
        self.pieces = [*pieces]

    def recv(self, size: int, flags: int = 0) -> bytes:
        return self.pieces.pop(0)


def test_a_response_cut_behind_an_interim_one() -> None:
    """A segment with an interim response may end within the next one."""
    interim, response = b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"
    for cut in range(1, len(response)):
        with Wire(Pieces(interim + response[:cut], response[cut:]), Deadline(1), Transcript()) as wire:
            assert str(wire.response()) == "204 No Content"


def test_more_idle_than_there_is_time() -> None:
    """A connection is not left alone for longer than all checks may take: that is said instead."""
    checks = [check for group in GROUPS for check in group.checks if check.name == "idle"]
    with SwitchingServer() as server:
        subject = Subject(server.url, server.token, idle=PATIENCE)
        (outcome,) = run_checks([Group("", checks=checks)], subject, PATIENCE / 2)
    assert outcome.result == "skipped"
    assert outcome.detail.endswith("longer than the time that is left for all checks")
