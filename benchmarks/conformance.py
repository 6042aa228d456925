"""
What ``upgrade-switch probe --conformance`` finds of the servers in ``peers/``, as the tables and the
picture of ``docs/topics/conformance.md``. A server that is not installed is left out, and keeps the
results that it has.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from conformance_report import DATA, PAGE, PICTURE, Outcome, Results, picture_of, with_tables
from peers import PEERS, Peer, running

PROBE = str(Path(sys.executable).with_name("upgrade-switch"))

# Many of the checks that fail take all of their time. It is less than the 5 s after which Node, uvicorn
# and hypercorn close an idle connection: that would hide that an answer is missing.
BOUNDS = ("--timeout", "4", "--jobs", "4", "--within", "1000")

# Exit codes of the probe: something failed that an RFC demands, or nothing did.
_DONE = (0, 1)


def probed(peer: Peer) -> list[Outcome]:
    """
    Start a peer, and check it.

    :return: what the probe writes.
    """
    with running(peer) as (port, _):
        url = f"http://127.0.0.1:{port}/echo"
        command = [PROBE, "probe", "--conformance", "--json", *BOUNDS, url, peer.token]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode not in _DONE:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}")
    # The port is another one each time.
    found: list[Outcome] = json.loads(done.stdout.replace(f"127.0.0.1:{port}", "127.0.0.1:8080"))
    return found


def probe_all(names: Sequence[str], results: Results) -> None:
    """Probe these peers one after the other, and put what is found into the results."""
    linux = platform.release().split("-")[0]
    results["system"] = f"Python {platform.python_version()} on Linux {linux}"
    for peer in PEERS:
        if peer.name not in names:
            continue
        missing = peer.why_missing()
        if missing is not None:
            print(f"{peer.name}: left out: {missing}", file=sys.stderr)
            continue
        found = probed(peer)
        today = datetime.date.today().isoformat()
        results["peers"][peer.name] = {"version": peer.version(), "date": today, "checks": found}
        failed = [each["check"] for each in found if each["result"] == "fail"]
        print(f"{peer.name}: {len(failed)} of {len(found)} failed", *failed, flush=True)


def as_text(results: Results) -> str:
    """JSON with a line for each check, so that a change of one shows as a change of a line."""
    text = json.dumps(results, indent=1, ensure_ascii=False)
    lines = text.replace("{\n     ", "{").replace(",\n     ", ", ").replace("\n    }", "}")
    return f"{lines}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="What the probe finds of this project and of others.")
    names = [peer.name for peer in PEERS]
    parser.add_argument("--only", help=f"some of them, with commas between: {','.join(names)}")
    parser.add_argument("--draw", action="store_true", help="run nothing: write the report anew")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else names
    if unknown := set(chosen) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    results: Results = {"system": "", "peers": {}}
    if DATA.exists():
        results = json.loads(DATA.read_text())
    if not options.draw:
        probe_all(chosen, results)
        DATA.write_text(as_text(results))
    PAGE.write_text(with_tables(PAGE.read_text(), results))
    PICTURE.write_text(picture_of(results))


if __name__ == "__main__":
    main()
