"""
README's code blocks run, and do what is said beside them.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import pytest_twisted
from twisted.internet import endpoints, task
from twisted.internet.defer import Deferred

from tests.kit import ROOT
from tests.kit.harness import patient, reactor
from upgrade_switch import NotSwitched

README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
CONSOLE = re.findall(r"```console\n(.*?)```", README, re.DOTALL)


async def run_server() -> Any:
    """Run README's server on a port that is free, and give the port."""
    listening: list[Any] = []
    real = endpoints.serverFromString

    def listen_anywhere(reactor: Any, description: str) -> Any:
        assert description == "tcp:8080:interface=127.0.0.1"
        endpoint = real(reactor, "tcp:0:interface=127.0.0.1")
        listen = endpoint.listen
        endpoint.listen = lambda f: listen(f).addCallback(listening.append)
        return endpoint

    with patch.object(endpoints, "serverFromString", listen_anywhere), patch.object(reactor, "run"):
        exec(compile(PYTHON[0], "README.md", "exec"), {})
    (port,) = listening
    return port


async def run_client(url: str) -> None:
    """Run README's client, in this process."""
    assert PYTHON[1].count("http://127.0.0.1:8080/echo") == 1
    block = PYTHON[1].replace("http://127.0.0.1:8080/echo", url)
    with patch.object(task, "react") as react:
        exec(compile(block, "README.md", "exec"), {})
    (main,) = react.call_args.args
    await patient(Deferred.fromCoroutine(main(reactor)))


@pytest_twisted.ensureDeferred
async def test_server_and_client(capsys: pytest.CaptureFixture[str]) -> None:
    """README's client talks to README's server, and raises NotSwitched if it is refused."""
    port = await run_server()
    url = f"http://127.0.0.1:{port.getHost().port}"
    await run_client(f"{url}/echo")
    assert capsys.readouterr().out == "b'hello'\n"
    with pytest.raises(NotSwitched) as refused:
        await run_client(f"{url}/nothing")
    assert refused.value.response.code == 404
    await refused.value.response.text()
    await port.stopListening()


def test_command() -> None:
    """README's command lines, on a port that is free, do what they say."""
    lines = [line[2:] for block in CONSOLE for line in block.splitlines()]
    (connect,) = [line for line in lines if line.startswith("echo hello | ")]
    program = str(Path(sys.executable).parent / "upgrade-switch")
    server = subprocess.Popen(
        [program, "serve", "--listen", "tcp:0:interface=127.0.0.1"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        port = server.stderr.readline().rstrip("/\n").rpartition(":")[2]
        command = connect.replace("upgrade-switch", shlex.quote(program)).replace("8080", port)
        done = subprocess.run(command, shell=True, capture_output=True, timeout=30, check=True)
        assert done.stdout == b"hello\n"
    finally:
        server.terminate()
        assert server.wait(30) == 0
        server.stderr.close()


def test_every_link_leads_somewhere() -> None:
    """Each file that README links to is there."""
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_block_is_known() -> None:
    """A new code block in README needs a test here."""
    assert (len(PYTHON), len(CONSOLE)) == (2, 3)
