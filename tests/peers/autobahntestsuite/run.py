"""
Run autobahntestsuite's cases against this package's server (``fuzzingclient``), over streams of HTTP/2
too (``http2``), against its streams of messages (``messages``), and against its client
(``fuzzingserver``)::

    python tests/peers/autobahntestsuite/run.py --wstest WSTEST [MODE...] [--cases 1.*]

``wstest`` needs Python 2.7; ``.ci/run`` installs it if there is one. It always exits with 0, so this
program reads its report: it fails unless each case was run, and ended as OK or INFORMATIONAL,
and nothing was logged.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

AGENT = "upgrade_switch"

#: What is run, and how many cases each is: the report of a suite that has given up is short.
#: 8 and 11 are empty; the rest of 12, and 13, are what 12.1 is with other sizes and windows.
CASES = {
    "1.*": 16,
    "2.*": 11,
    "3.*": 7,
    "4.*": 10,
    "5.*": 20,
    "6.*": 145,
    "7.*": 37,
    "9.*": 54,
    "10.*": 1,
    "12.1.*": 18,
}

#: Where a mode writes what is logged, in its folder.
ERRORS = "errors"

GOOD = ("OK", "INFORMATIONAL")

#: What else is right in a mode. The frames of ``messages`` are the websockets library's, which fails at
#: once where the suite would like to have echoes of what came before, and which takes a Close frame in
#: the middle of a message (7.1.5) for an error.
GOOD_IN = {"messages": ("NON-STRICT",)}
DIFFERENT = {("messages", "7.1.5"): ("FAILED", "WRONG CODE")}

#: Seconds for all cases of one mode. They take about one minute.
PATIENCE = 1200

STARTING = 30


@contextmanager
def started(command: list[str], **kwargs: Any) -> Iterator[Any]:
    """A program that runs for as long as it is needed."""
    with subprocess.Popen(command, **kwargs) as process:
        try:
            yield process
        finally:
            process.kill()


def fuzzingclient(
    wstest: str, folder: Path, cases: list[str], bridge: bool = False, path: str = "echo"
) -> None:
    """wstest is the client."""
    command = [sys.executable, str(HERE / "server.py")]
    with ExitStack() as running:
        errors = running.enter_context((folder / ERRORS).open("wb"))
        options = {"stdout": subprocess.PIPE, "stderr": errors}
        server = running.enter_context(started(command, **options))
        port = int(server.stdout.readline())
        if bridge:
            command = [sys.executable, str(HERE / "bridge.py"), str(port)]
            port = int(running.enter_context(started(command, **options)).stdout.readline())
        url = f"ws://127.0.0.1:{port}/{path}"
        spec = {"servers": [{"agent": AGENT, "url": url}], "outdir": str(folder), "cases": cases}
        command = [wstest, "-m", "fuzzingclient", "-s", written(folder, spec)]
        subprocess.run(command, stdout=subprocess.DEVNULL, timeout=PATIENCE, check=True)


def fuzzingserver(wstest: str, folder: Path, cases: list[str]) -> None:
    """wstest is the server."""
    url = f"ws://127.0.0.1:{free_port()}"
    spec = {"url": url, "outdir": str(folder), "cases": cases}
    command = [wstest, "-m", "fuzzingserver", "-s", written(folder, spec), "-w", "0"]
    with started(command, stdout=subprocess.DEVNULL) as server:
        wait_for(server, int(url.rpartition(":")[2]))
        client = [sys.executable, str(HERE / "client.py"), url, AGENT]
        with (folder / ERRORS).open("wb") as errors:
            subprocess.run(client, timeout=PATIENCE, stderr=errors, check=False)


def http2(wstest: str, folder: Path, cases: list[str]) -> None:
    """wstest is the client, through a bridge that carries its connections over HTTP/2."""
    fuzzingclient(wstest, folder, cases, bridge=True)


def messages(wstest: str, folder: Path, cases: list[str]) -> None:
    """wstest is the client of a handler of messages."""
    fuzzingclient(wstest, folder, cases, path="messages")


MODES = {
    "fuzzingclient": fuzzingclient,
    "http2": http2,
    "messages": messages,
    "fuzzingserver": fuzzingserver,
}


def written(folder: Path, spec: dict[str, Any]) -> str:
    path = folder / "spec.json"
    path.write_text(json.dumps({"exclude-cases": [], "exclude-agent-cases": {}, **spec}))
    return str(path)


def free_port() -> int:
    """wstest does not say which port it has got: it has to be told one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_for(server: Any, port: int) -> None:
    """Until it listens; it does not say that either."""
    until = time.monotonic() + STARTING
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if server.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.1)


def wrong(mode: str, folder: Path, cases: list[str]) -> list[str]:
    """What is wrong with the cases in a report, and a line about all of them."""
    logged = (folder / ERRORS).read_text()
    index = folder / "index.json"
    report = json.loads(index.read_text())[AGENT] if index.exists() else {}
    results = {case: (result["behavior"], result["behaviorClose"]) for case, result in report.items()}
    good = {*GOOD, *GOOD_IN.get(mode, ())}
    bad = [
        f"{case}: {', '.join(ends)}"
        for case, ends in results.items()
        if not good.issuperset(ends) and ends != DIFFERENT.get((mode, case))
    ]
    count = Counter(end for end, _close in results.values())
    print("  " + ", ".join(f"{number} {end}" for end, number in count.most_common()), flush=True)
    expected = sum(CASES.get(case, 1) for case in cases)
    if len(results) != expected:
        bad.append(f"{len(results)} cases were run, not {expected}")
    return [*bad, *logged.splitlines()]


def main() -> int:
    parser = argparse.ArgumentParser(description="Run autobahntestsuite's cases.")
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"{' or '.join(MODES)}; default: all")
    parser.add_argument("--wstest", default="wstest", help="the program, in its Python 2.7's folder")
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="such as 1.* or 5.1")
    options = parser.parse_args()
    failed = False
    for mode in options.modes or MODES:
        print(f"wstest: {mode}:", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            MODES[mode](options.wstest, Path(folder), options.cases)
            for line in wrong(mode, Path(folder), options.cases):
                failed = True
                print("  " + line, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
