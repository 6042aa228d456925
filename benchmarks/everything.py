"""
``make benchmark``: runs all of the benchmarks, one after the other, and writes what they have found
into ``results.json``, ``RESULTS.md`` and ``speed.svg``.

What is missing on this machine is left out, and that is said. The results are written after each of
the programs, so that they hold what has been done when somebody interrupts it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from load import is_compiled
from processes import end_in_order
from report import Results, page_of, picture_of

HERE = Path(__file__).parent
DATA, PAGE, PICTURE = HERE / "results.json", HERE / "RESULTS.md", HERE / "speed.svg"

# The programs, and how many rounds each makes. Growth has a round of its own size.
PROGRAMS = {
    "switching": 5,
    "websocket": 5,
    "tls": 5,
    "proxy": 5,
    "websocket_tunnel": 5,
    "http2": 5,
    "workers": 5,
    "growth": 1,
}


def system() -> str:
    """What all of it ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    linux = platform.release().split("-")[0]
    cores = len(os.sched_getaffinity(0))
    parts = [f"Python {platform.python_version()}", f"Linux {linux}", f"{cores} cores", *models[:1]]
    return ", ".join(parts) + ("" if is_compiled() else ", load in Python")


def run(names: Sequence[str], options: argparse.Namespace, results: Results, into: Path) -> list[str]:
    """
    Run these programs, and write what each has found.

    :return: those that failed.
    """
    failed = []
    for name in names:
        began = time.monotonic()
        found = into / f"{name}.json"
        rounds = options.rounds or (2 if options.quick else PROGRAMS[name])
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(found)]
        if PROGRAMS[name] > 1:
            command += ["--rounds", str(rounds)]
        if options.quick:
            command.append("--quick")
        print(f"\n{name}", flush=True)
        run_program(command)
        if found.exists():
            results["sections"][name] = json.loads(found.read_text())
            write(results)
        else:
            failed.append(name)
        print(f"\n{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return failed


def run_program(command: Sequence[str]) -> None:
    """Run it; when this process is interrupted, wait until it has ended its servers."""
    with subprocess.Popen(command) as process:
        try:
            process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def write(results: Results) -> None:
    """Write the three files anew."""
    order = [name for name in PROGRAMS if name in results["sections"]]
    results["sections"] = {name: results["sections"][name] for name in order}
    DATA.write_text(as_text(results))
    draw()


def draw() -> None:
    """Write the page and the picture anew, from what the data's file says."""
    results: Results = json.loads(DATA.read_text())
    PAGE.write_text(page_of(results))
    PICTURE.write_text(picture_of(results))


def as_text(results: Results) -> str:
    """JSON with a line for the values of each server, so that what has changed can be seen."""
    rounded = json.loads(json.dumps(results), parse_float=lambda text: float(f"{float(text):.5g}"))
    text = json.dumps(rounded, indent=1, ensure_ascii=False)
    lines: list[str] = []
    in_list = False
    for line in text.splitlines():
        if in_list:
            lines[-1] += line.strip() + (" " if line.endswith(",") else "")
        else:
            lines.append(line)
        if line.rstrip().endswith("["):
            in_list = '"goals"' not in line
        elif line.strip() in ("]", "],"):
            if in_list:
                lines[-1] = lines[-1].rstrip()
            in_list = False
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="All of the benchmarks.")
    parser.add_argument("--rounds", type=int, help="how many (default: 5; with --quick: 2)")
    parser.add_argument("--quick", action="store_true", help="small rounds: a look, no result")
    parser.add_argument("--only", help=f"some of {','.join(PROGRAMS)}")
    parser.add_argument("--draw", action="store_true", help="run nothing: write page and picture anew")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else [*PROGRAMS]
    if unknown := set(names) - set(PROGRAMS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    results: Results = {"system": "", "date": "", "is_quick": False, "sections": {}}
    if DATA.exists():
        results = json.loads(DATA.read_text())
    if options.draw:
        draw()
        return
    if not options.only:
        results["sections"] = {}
    results["system"] = system()
    results["date"] = datetime.date.today().isoformat()
    results["is_quick"] = options.quick
    end_in_order()
    with TemporaryDirectory() as folder:
        failed = run(names, options, results, Path(folder))
    if failed:
        sys.exit(f"These have failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
