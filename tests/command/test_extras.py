"""
Subcommands that need an extra of this package which is not installed.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.kit.commands import COMMAND, LOCAL, PATIENCE, one_line
from tests.kit.harness import field
from tests.kit.operating import TWIST, get
from tests.kit.programs import Program

TUNNEL = ["--tunnel", "/x websocket tcp:127.0.0.1:1"]

#: Command lines, and the extra that each of them needs.
NEEDY = {
    "serve websocket": ([COMMAND, "serve", "--listen", LOCAL, *TUNNEL], "websocket"),
    "serve h2c": ([COMMAND, "serve", "--listen", LOCAL, "--h2c"], "http2"),
    "serve streams": ([COMMAND, "serve", "--listen", LOCAL, "--http2-connect"], "http2"),
    "twist websocket": ([TWIST, "upgrade-switch", "--listen", LOCAL, *TUNNEL], "websocket"),
    "twist h2c": ([TWIST, "upgrade-switch", "--listen", LOCAL, "--h2c"], "http2"),
    "connect": ([COMMAND, "connect", "ws://127.0.0.1:1/"], "websocket"),
    "connect streams": ([COMMAND, "connect", "--http2", "https://127.0.0.1:1/", "echo"], "http2"),
    "forward streams": (
        [COMMAND, "forward", "--http2", LOCAL, "https://127.0.0.1:1/", "echo"],
        "http2",
    ),
    "forward": ([COMMAND, "forward", LOCAL, "ws://127.0.0.1:1/"], "websocket"),
}


def hide(folder: Path) -> None:
    """Put what the extras bring into a folder, as if it were missing."""
    for name in ("autobahn", "h2"):
        # Found before the one that is installed.
        missing = f"raise ModuleNotFoundError('No module named {name}', name={name!r})\n"
        (folder / f"{name}.py").write_text(missing)


@pytest.mark.parametrize("kind", NEEDY)
def test_missing_extra(kind: str, tmp_path: Path) -> None:
    """An extra that is not installed is a usage error, exit code 2; one line says how to install it."""
    command, extra = NEEDY[kind]
    hide(tmp_path)
    done = subprocess.run(
        command,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert f"pip install 'upgrade_switch[{extra}]'" in one_line(done.stderr)


def test_echo_without_messages(tmp_path: Path) -> None:
    """Without the extra for WebSockets the echo has its own token alone, and the page has no box."""
    hide(tmp_path)
    environment = {"PYTHONPATH": str(tmp_path), "PATH": ""}
    # A new process: a fork would have autobahn already.
    with Program([COMMAND, "serve", "--listen", LOCAL], stdin=None, env=environment) as server:
        url = server.says().removeprefix("listening on ")
        code, got = get(url, "/echo")
        assert (code, field(got, b"upgrade")) == (426, b"echo")
        assert b"data-echo" not in get(url, "/")[1]
        server.terminate()
        assert server.ends()[0] == 0
