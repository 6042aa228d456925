"""
Fuzzes the targets, with atheris (the extra ``fuzz``): ``python fuzz/run.py --seconds 600 --keep``.

What fails is written to a file ``crash-...`` here; ``python fuzz/run.py TARGET FILE`` runs it once
more.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from hashlib import sha1
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from twisted.logger import globalLogBeginner

HERE = Path(__file__).parent
TARGETS = ("negotiation", "channel", "answers", "http2")
INSTRUMENTED = ["fuzz", "upgrade_switch", "twisted.web.http", "twisted.protocols.basic", "h11"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="how long each target is fuzzed")
    parser.add_argument("--seed", type=int, default=0, help="for the same inputs again; 0: others")
    parser.add_argument("--keep", action="store_true", help="add what reaches new lines to the corpus")
    parser.add_argument("target", nargs="?", choices=TARGETS, help="all, one after the other")
    parser.add_argument("file", nargs="?", type=Path, help="an input, to be checked alone")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent))
    quiet()
    if options.file is not None:
        import_module(f"fuzz.{options.target}").check(options.file.read_bytes())
        return 0
    if find_spec("atheris") is None:
        parser.error("atheris is not installed; it comes with the extra: fuzz")
    for target in [options.target] if options.target else TARGETS:
        with tempfile.TemporaryDirectory() as found:
            # A process of its own: libFuzzer ends the one that it runs in.
            command = [sys.executable, "-c", "from fuzz.run import fuzz; fuzz()", target, found]
            command += [str(options.seconds), str(options.seed)]
            done = subprocess.run(command, cwd=HERE.parent, check=False)  # noqa: S603 - ourselves
            if done.returncode:
                return done.returncode
            if options.keep:
                keep(target, Path(found))
    return 0


def quiet() -> None:
    """Have Twisted's log keep nothing."""
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)


def fuzz() -> None:
    """Fuzz one target; in a process of its own."""
    import atheris

    target, found, seconds, seed = sys.argv[1:]
    quiet()
    with atheris.instrument_imports(include=INSTRUMENTED):
        module = import_module(f"fuzz.{target}")
    arguments = [
        target,
        found,
        str(HERE / "corpus" / target),
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-artifact_prefix={HERE}/",
        f"-dict={HERE / 'http.dict'}",
        "-max_len=700",
        "-print_final_stats=1",
    ]
    atheris.Setup(arguments, module.check)
    atheris.Fuzz()


def keep(target: str, found: Path) -> None:
    """Copy what reaches something new to the corpus, the shortest first."""
    check = import_module(f"fuzz.{target}").check
    corpus = HERE / "corpus" / target
    seen: set[Any] = set()
    for path in sorted(corpus.iterdir()):
        seen |= reached(check, path.read_bytes())
    for data in sorted((path.read_bytes() for path in found.iterdir()), key=len):
        new = reached(check, data) - seen
        if new:
            seen |= new
            name = sha1(data, usedforsecurity=False).hexdigest()[:16]
            (corpus / name).write_bytes(data)
            print(f"{corpus / name}: {data!r}")


def reached(check: Any, data: bytes) -> set[tuple[str, int, int]]:
    """Which steps from one line of the package to another an input makes."""
    steps: set[tuple[str, int, int]] = set()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        name = frame.f_code.co_filename
        if "upgrade_switch" not in name:
            return None
        last = frame.f_lineno

        def line(frame: FrameType, event: str, _: object) -> Any:
            nonlocal last
            steps.add((name, last, frame.f_lineno))
            last = frame.f_lineno
            return line

        return line

    sys.settrace(trace)
    try:
        check(data)
    finally:
        sys.settrace(None)
    return steps


if __name__ == "__main__":
    sys.exit(main())
