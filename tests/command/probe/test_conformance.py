"""
``upgrade-switch probe --conformance`` against ``upgrade-switch serve``, which passes all of it.
"""

from __future__ import annotations

import json
import os
import pty
import re
from base64 import b64encode
from pathlib import Path

import pytest

from tests.kit.certificate import make_certificate
from tests.kit.commands import run, serving, shown_on
from tests.kit.switching import SwitchingServer
from upgrade_switch.command import main
from upgrade_switch.command.probe.checks import GROUPS

TOKENS = ("echo", "websocket")

#: Why checks are skipped.
SKIPPED = {
    "it needs --slow",
    "it is only for WebSocket",
    "it is only for connections without TLS",
    "it is only for targets that echo",
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with a key, and the certificate of localhost."""
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    path.write_bytes(b"".join(make_certificate()))
    return path


def conforms(token: str, *arguments: str) -> dict[str, str]:
    """
    Run all checks.

    :return: those that have failed, and why.
    """
    options = ("--conformance", "--json", "--timeout", "30", "--jobs", "8")
    done = run("probe", *options, *arguments, token)
    assert done.stderr == b""
    found = json.loads(done.stdout)
    assert {check["detail"] for check in found if check["result"] == "skipped"} <= SKIPPED
    assert sum(check["result"] == "pass" for check in found) >= 60
    failed = {check["check"]: check["detail"] for check in found if check["result"] == "fail"}
    levels = {check["level"] for check in found if check["check"] in failed}
    assert done.returncode == ("MUST" in levels)
    return failed


@pytest.mark.parametrize("token", TOKENS)
def test_serve(token: str) -> None:
    """All checks pass, those of careful servers, too; a connection outlives the time of a request."""
    with serving("--h2c", "--http2-connect", "--head-timeout", "1") as server:
        assert conforms(token, "--slow", "1.2", f"{server.url}echo") == {}


@pytest.mark.parametrize("token", TOKENS)
def test_serve_over_tls(certificate: Path, token: str) -> None:
    """Nor does TLS change anything, where HTTP/2 could be had, too."""
    secure = f"ssl:0:interface=127.0.0.1:privateKey={certificate}:certKey={certificate}"
    with serving("--http2-connect", listen=(secure,)) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        assert conforms(token, "--ca", str(certificate), f"{url}echo") == {}


@pytest.mark.parametrize("token", TOKENS)
def test_serve_with_passwords(token: str) -> None:
    """The fields that are given go with each request; without them, the plain upgrade does not work."""
    credentials = b64encode(b"ops:secret").decode()
    with serving("--auth", "/ memory:ops:secret") as server:
        field = f"Authorization: Basic {credentials}"
        assert conforms(token, "--header", field, f"{server.url}echo") == {}
        done = run("probe", "--conformance", "--json", f"{server.url}echo", token)
        failed = {check["check"] for check in json.loads(done.stdout) if check["result"] == "fail"}
        assert (failed, done.returncode) == ({"plain-upgrade"}, 1)


@pytest.mark.parametrize("token", TOKENS)
def test_the_proxy(token: str) -> None:
    """In front of such a server, too."""
    with (
        serving() as server,
        serving("--proxy", f"/ {server.url} tokens=echo,websocket") as proxy,
    ):
        assert conforms(token, f"{proxy.url}echo") == {}


def test_a_report(capfd: pytest.CaptureFixture[str]) -> None:
    """A group that says nothing about a server is one line; with --verbose, all is shown."""
    with SwitchingServer() as server:
        command = ["probe", "--conformance", "--jobs", "8", server.url, "echo"]
        assert main(command) == 0
        brief, _ = capfd.readouterr()
        assert main([*command, "--verbose"]) == 0
        verbose, _ = capfd.readouterr()
    (count,) = (len(group.checks) for group in GROUPS if group.only_websocket)
    assert f"WebSocket: its handshake\n  -     {count} checks: it is only for WebSocket\n" in brief
    assert "websocket-close" not in brief
    assert "  -     websocket-close " in verbose
    for line in ("> Upgrade: probe-unknown", "< HTTP/1.1 101 Switching Protocols", "* half-close"):
        assert f"          {line}" in verbose
        assert line not in brief
    assert brief.splitlines()[-1] == verbose.splitlines()[-1]
    assert re.fullmatch("[0-9]+ passed, 0 failed, [0-9]+ skipped", brief.splitlines()[-1])


def test_progress_on_a_terminal() -> None:
    """A line that counts the checks, and is cleared at the end; nothing of it on standard output."""
    terminal, theirs = pty.openpty()
    try:
        with SwitchingServer() as server, open(theirs, "wb") as stderr:
            command = ("probe", "--conformance", "--json", "--jobs", "8", server.url, "echo")
            done = run(*command, stderr=stderr.fileno())
        shown = shown_on(terminal)
    finally:
        os.close(terminal)
    count = len(json.loads(done.stdout))
    assert re.search(rf"\r{count // 2} of {count} checks\x1b\[K\r".encode(), shown)
    assert shown.endswith(b"\r\x1b[K")
