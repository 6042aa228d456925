"""
A script run by the tests' kit as a fork of a warm process is what it is as a new process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.programs import PATIENCE, run_script

SCRIPTS = {
    "nothing": "",
    "streams": "print(sys.stdin.read().upper()); print('error', file=sys.stderr); sys.exit(3)",
    "what it is given": "print(sys.argv, __file__, __name__, os.getcwd(), sorted(os.environ))",
    "text": "sys.exit('why not')",
    "none": "sys.exit(None)",
    "large code": "sys.exit(256 + 7)",
    "negative code": "sys.exit(-2)",
    "exception": "1 / 0",
    "signal": "os.kill(os.getpid(), signal.SIGTERM)",
    "at exit": "atexit.register(print, 'goodbye'); print('hello')",
    "thread": (
        "late = lambda: (threading.main_thread().join(), print('late'))\n"
        "threading.Thread(target=late).start(); print('early')"
    ),
    "cycle": "x = type('X', (), {'__del__': lambda _: print('gone')})(); x.x = x; del x",
    "nobody reads": "os.dup2(os.open('/dev/full', os.O_WRONLY), 1); print('lost')",
    "handlers": "print(signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGCHLD))",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name: str, tmp_path: Path) -> None:
    """Its exit code and what it writes are the same; of a traceback, the last line is."""
    script = tmp_path / "script.py"
    script.write_text(f"import atexit, os, signal, sys, threading\n{SCRIPTS[name]}\n")
    # Without a locale, a new Python would add one.
    environment = {"PATH": "/bin", "LC_ALL": "C.UTF-8"}
    arguments = [str(script), "one", "two words"]
    new = subprocess.run(
        [sys.executable, *arguments],
        input=b"hello",
        capture_output=True,
        cwd=tmp_path,
        env=environment,
        timeout=PATIENCE,
        check=False,
    )
    fork = run_script(arguments, input=b"hello", cwd=tmp_path, env=environment)
    assert (fork.returncode, fork.stdout) == (new.returncode, new.stdout)
    assert fork.stderr.splitlines()[-1:] == new.stderr.splitlines()[-1:]


def test_descriptors(tmp_path: Path) -> None:
    """It has the descriptors that it is passed, under their numbers, and no others."""
    script = tmp_path / "script.py"
    script.write_text("import os\nprint(sorted(map(int, os.listdir('/proc/self/fd'))))\n")
    with script.open() as one, script.open() as other:
        passed = [one.fileno(), other.fileno()]
        done = run_script([str(script)], pass_fds=passed)
    found = set(map(int, done.stdout.decode().strip("[]\n").split(", ")))
    # One is that of the folder, while it is listed.
    assert {0, 1, 2, *passed} <= found
    assert len(found) == 6
