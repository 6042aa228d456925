"""
Proves that the tests find bugs: each patch beside this file puts one into a copy of the tree, where
some test has to fail then.

``python tests/mutants/run.py`` tries all out, ``python tests/mutants/run.py NAME...`` some. A patch
begins with what is broken, and with the modules that are run, the most likely first::

    What: What is behind the request that switches is lost.
    Tests: tests/core/test_takeover.py tests/core/test_handover.py

Single tests can be named, too. ``--check`` runs all of these once on a copy without any patch.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from time import monotonic
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACKAGE = "upgrade_switch"

# pytest's exit codes (pytest.ExitCode).
PASSED, FAILED = 0, 1

# Where the copy's package really is imported from; with all its modules, since a mutant that cannot be
# imported proves nothing.
LOOK = f"""
import pkgutil, {PACKAGE}
for found in pkgutil.walk_packages({PACKAGE}.__path__, "{PACKAGE}."):
    __import__(found.name)
print({PACKAGE}.__file__)
"""


class Mutant(NamedTuple):
    """A bug, and the tests that are to find it."""

    name: str
    patch: Path
    what: str
    tests: tuple[str, ...]


class Verdict(Enum):
    """What has become of a mutant."""

    FOUND = "found"
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN"
    """Neither: the patch does not apply, or the tests cannot be run."""


class Outcome(NamedTuple):
    """A mutant's verdict, and what more there is to say."""

    verdict: Verdict
    detail: str = ""
    seconds: float = 0.0
    is_timed_out: bool = False

    def __str__(self) -> str:
        return f"{self.verdict.value} {self.detail}".rstrip()


class Broken(Exception):
    """A mutant cannot be tried out."""


def main() -> int:
    """
    Do what the command line asks for.

    :return: the exit code: 1 where a mutant survives, 2 where one cannot be tried out.
    """
    # make, and shells that put a job into the background, may have had SIGINT ignored, which programs
    # that the tests start would inherit, and not be stopped by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(description="Prove that the tests find bugs.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    # Tests that take longer wait for something that never comes: the bug is found then, too.
    parser.add_argument("--timeout", type=float, default=120, help="seconds for a mutant's tests")
    parser.add_argument("--check", action="store_true", help="run the tests without any bug, once")
    parser.add_argument("name", nargs="*", help="a mutant; all where none is named")
    options = parser.parse_args()
    known = {path.stem: path for path in sorted(HERE.glob("*.patch"))}
    unknown = [name for name in options.name if name not in known]
    if unknown:
        parser.error(f"no such mutant: {', '.join(unknown)}")
    mutants = [read(known[name]) for name in options.name or known]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        clean = Path(folder) / "clean"
        copy_tree(clean)
        try:
            look(clean)
        except Broken as broken:
            sys.exit(f"the tree without any bug: {broken}")
        if options.check:
            return check(clean, mutants, options.jobs)
        return asyncio.run(run_all(mutants, clean, options.jobs, options.timeout))


def read(patch: Path) -> Mutant:
    """Read what a patch says in front of its diff."""
    head = patch.read_text("utf-8").partition("\n--- ")[0]
    said = dict(re.findall(r"^(What|Tests): (.+)$", head, re.MULTILINE))
    if said.keys() != {"What", "Tests"}:
        sys.exit(f"{patch.name}: it has to begin with What: and Tests:")
    return Mutant(patch.stem, patch, said["What"], tuple(said["Tests"].split()))


def copy_tree(folder: Path) -> None:
    """Copy what is in the work tree, and is not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, os.fsdecode(listed).split("\0")):
        source, copy = ROOT / name, folder / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)


def environment(tree: Path) -> dict[str, str]:
    """
    What has a tree's own package imported, by the tests and by the programs that they start: PYTHONPATH
    goes before what an editable install adds to ``sys.path``.
    """
    return {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "1000"}


def look(tree: Path) -> None:
    """
    Make sure that what is imported is a tree's own package, and that all of it can be.

    :raises Broken: where it cannot.
    """
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        cwd=tree.parent,
        env=environment(tree),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Broken(f"it cannot be imported: {last_line(done.stderr)}")
    found = Path(done.stdout.strip())
    assert found == tree / PACKAGE / "__init__.py", f"the tests would be those of {found}"


def apply(patch: Path, tree: Path) -> None:
    """
    Apply a patch to a tree.

    :raises Broken: where it does not apply.
    """
    # Where the temporary folder is inside of a repository, git would leave out what is not in its own
    # folder, and say nothing.
    done = subprocess.run(
        # The code around a bug may change: its place, its lines, and one on each side have to be there.
        ["git", "apply", "--recount", "-C1", str(patch)],
        cwd=tree,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Broken(f"the patch does not apply: {done.stderr.strip().splitlines()[0]}")


async def run_all(mutants: Sequence[Mutant], clean: Path, jobs: int, timeout: float) -> int:
    """
    Try all out, and print a line for each as soon as it is known; at the end, how many were found.

    :param jobs: how many are tried out at a time.
    :param timeout: seconds that the tests of one have.
    """
    width = max(len(mutant.name) for mutant in mutants)
    turn = asyncio.Semaphore(jobs)
    began = monotonic()

    async def one(mutant: Mutant) -> Outcome:
        async with turn:
            outcome = await outcome_of(mutant, clean, timeout)
        print(f"{mutant.name:{width}}  {outcome}  {outcome.seconds:.1f} s", flush=True)
        return outcome

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(mutant)) for mutant in mutants]
    verdicts = [task.result().verdict for task in tasks]
    counts = {verdict: verdicts.count(verdict) for verdict in Verdict}
    print(f"\n{len(mutants)} mutants in {monotonic() - began:.0f} s: {counts[Verdict.FOUND]} found")
    for mutant, task in zip(mutants, tasks, strict=True):
        outcome = task.result()
        if outcome.verdict is not Verdict.FOUND:
            print(f"{outcome.verdict.value} {mutant.name}: {mutant.what}")
        elif outcome.is_timed_out:
            # On a busy machine, the tests may only have been slow.
            print(f"{mutant.name}: found {outcome.detail} alone")
    if counts[Verdict.BROKEN]:
        return 2
    return 1 if counts[Verdict.SURVIVED] else 0


async def outcome_of(mutant: Mutant, clean: Path, timeout: float) -> Outcome:
    """Try one mutant out."""
    began = monotonic()
    # Beneath the folder of the clean copy, which is removed at the end, whatever happens.
    with tempfile.TemporaryDirectory(prefix=f"{mutant.name}-", dir=clean.parent) as folder:
        tree = Path(folder) / "tree"
        try:
            await asyncio.to_thread(prepare, mutant, clean, tree)
        except Broken as broken:
            return Outcome(Verdict.BROKEN, str(broken), monotonic() - began)
        output = Path(folder) / "output"
        code = await run_tests(mutant.tests, tree, output, timeout)
        text = output.read_text("utf-8", "replace")
    seconds = monotonic() - began
    if code is None:
        return Outcome(Verdict.FOUND, f"by the time limit of {timeout:g} s", seconds, True)
    if code == PASSED:
        return Outcome(Verdict.SURVIVED, "", seconds)
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", text, re.MULTILINE)
    if code == FAILED and failed is not None:
        return Outcome(Verdict.FOUND, f"by {failed[1]}", seconds)
    return Outcome(Verdict.BROKEN, f"pytest ends with {code}: {last_line(text)}", seconds)


def prepare(mutant: Mutant, clean: Path, tree: Path) -> None:
    """
    Make a mutant's own tree.

    :raises Broken: where it cannot be made.
    """
    # Nothing has been compiled in the clean copy: bytecode would be taken for that of a patched module
    # of the same size and second.
    shutil.copytree(clean, tree, ignore=shutil.ignore_patterns("__pycache__"))
    apply(mutant.patch, tree)
    look(tree)


async def run_tests(tests: Iterable[str], tree: Path, output: Path, timeout: float) -> int | None:
    """
    Run some test modules in a tree, until the first one fails.

    :return: pytest's exit code; None where the time was over.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "-p", "no:cacheprovider", *tests]
    with output.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=tree,
            env=environment(tree),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            # What the tests have started goes with them.
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(timeout):
                return await process.wait()
        except TimeoutError:
            return None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


def check(clean: Path, mutants: Iterable[Mutant], jobs: int) -> int:
    """Run the tests of all mutants without any of these; pytest's exit code."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider"]
    command += ["--numprocesses", str(jobs), "--dist", "loadfile", *tests]
    return subprocess.run(command, cwd=clean, env=environment(clean), check=False).returncode


def last_line(text: str) -> str:
    """The last line of what a program has said; behind a traceback, what was raised."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing was said"


if __name__ == "__main__":
    sys.exit(main())
