"""
With a Twisted whose internals are not what the package is built on, importing it says so.

The tests run where a name in the source of one of Twisted's modules has become another one: in
processes that have imported nothing of Twisted yet.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import twisted
from upgrade_switch import _twisted
from upgrade_switch._twisted.check import NEEDED, NEWEST, OLDEST, Need

FOLDER = Path(_twisted.__file__).parent

#: How long an import may take before the test fails, in seconds.
PATIENCE = 60

#: Makes names of a module others; a module of which all are is not there.
RENAME = r"""
import re, sys
from importlib.machinery import PathFinder, SourceFileLoader
MODULE, WORDS = sys.argv[1], sys.argv[2].split()
class Renaming(SourceFileLoader):
    def get_code(self, fullname):
        words = "|".join(WORDS)
        source = re.sub(rf"\b({words})\b", r"\1_now", self.get_source(fullname))
        return compile(source, self.path, "exec")
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname != MODULE:
            return None
        if not WORDS:
            raise ModuleNotFoundError(f"No module named {fullname}", name=fullname)
        spec = super().find_spec(fullname, path, target)
        spec.loader = Renaming(fullname, spec.origin)
        return spec
sys.meta_path.insert(0, Finder)
"""

CAUGHT = """
try:
    import {module}
except ImportError as error:
    from upgrade_switch.errors import UnsupportedTwisted, UpgradeError
    assert isinstance(error, UnsupportedTwisted), repr(error)
    assert isinstance(error, UpgradeError)
    print(error)
"""


#: Imports, once, all that Twisted and the package import of others'; runs each line's code in a process
#: of its own, which has to import only these two.
WARM = r"""
import gc, json, os, sys
from contextlib import suppress
from importlib import import_module
def run(code, *arguments):
    ends = [os.pipe(), os.pipe()]
    child = os.fork()
    if child == 0:
        for number, (_, writing) in enumerate(ends, 1):
            os.dup2(writing, number)
        sys.argv[1:] = arguments
        exec(code, {"__name__": "__main__"})
        sys.stdout.flush()
        os._exit(0)
    for _, writing in ends:
        os.close(writing)
    said = [open(reading).read() for reading, _ in ends]
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), *said
_, names, _ = run("import sys, upgrade_switch; print(*sys.modules)")
for name in names.split():
    if name.partition(".")[0] not in ("__main__", "twisted", "upgrade_switch"):
        with suppress(ImportError):  # some are not imported by their names
            import_module(name)
gc.disable()
for line in sys.stdin:
    print(json.dumps(run(*json.loads(line))), flush=True)
"""

PYTHON = (sys.executable, "-W", "error::ImportWarning", "-c")

#: Runs Python code with arguments; what it prints.
SaidBy = Callable[..., str]


@pytest.fixture(scope="module")
def said_by() -> Iterator[SaidBy]:
    """``said_by(code, *arguments)``: what some Python code prints, which must not fail, nor warn."""
    with subprocess.Popen(
        [*PYTHON, WARM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as warm:
        assert warm.stdin is not None
        assert warm.stdout is not None
        asks, answers = warm.stdin, warm.stdout

        def run(*code: str) -> str:
            alarm = threading.Timer(PATIENCE, warm.kill)
            alarm.start()
            print(json.dumps(code), file=asks, flush=True)
            returncode, out, error = json.loads(answers.readline())
            alarm.cancel()
            assert (returncode, error) == (0, "")
            said: str = out
            return said.strip()

        yield run
        asks.close()


@pytest.mark.parametrize("need", NEEDED, ids=lambda need: f"{need.module}.{need.owner}")
def test_names(need: Need, said_by: SaidBy) -> None:
    """Each name that is not there any more is named, with the versions."""
    said = said_by(
        RENAME + CAUGHT.format(module="upgrade_switch"),
        need.module,
        " ".join(need.names or [need.owner.rpartition(".")[2]]),
    )
    expected = [f"{need.module}.{need.owner}: {name}" for name in need.names]
    for missing in expected or [f"{need.module}.{need.owner}"]:
        assert missing in said
    assert f"Twisted {twisted.__version__} " in said
    assert "tested with Twisted {}.{} to {}.{};".format(*OLDEST, *NEWEST) in said


@pytest.mark.parametrize(
    "need",
    [need for need in NEEDED if need.owner.startswith("_") or "._" in need.owner],
    ids=lambda need: f"{need.module}.{need.owner}",
)
def test_private_owners(need: Need, said_by: SaidBy) -> None:
    """So is a private class or method that is not there any more."""
    code = RENAME + CAUGHT.format(module="upgrade_switch")
    said = said_by(code, need.module, need.owner.rpartition(".")[2])
    assert f"no {need.module}.{need.owner}" in said


def test_module(said_by: SaidBy) -> None:
    """So is a module that is not there any more."""
    code = RENAME + CAUGHT.format(module="upgrade_switch")
    said = said_by(code, "twisted.internet._newtls", "")
    assert said.endswith("this one has no twisted.internet._newtls")


def test_dependency_of_twisted() -> None:
    """A module of Twisted's that is there, but cannot be imported, is not said to be missing."""
    code = RENAME + "try: import upgrade_switch\nexcept ImportError as error: print(error.name)"
    done = subprocess.run(
        [*PYTHON, code, "OpenSSL", ""], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "OpenSSL\n", "")


def test_newer(said_by: SaidBy) -> None:
    """A Twisted that is newer than any that has been tested is taken as it is."""
    code = "import twisted; twisted.__version__ = '99.10.0rc1'; import upgrade_switch"
    assert said_by(code) == ""


def test_older(said_by: SaidBy) -> None:
    """A Twisted that is too old is refused, whatever it has."""
    code = "import twisted; twisted.__version__ = '24.3.0'" + CAUGHT.format(module="upgrade_switch")
    assert said_by(code) == (
        "Twisted 24.3.0 is too old for upgrade_switch, "
        "which is tested with Twisted {}.{} to {}.{}".format(*OLDEST, *NEWEST)
    )


def test_nothing_is_forgotten() -> None:
    """Every private name that the folder's modules use, and do not make themselves, is looked for."""
    looked_for = {name for need in NEEDED for name in (*need.names, *need.owner.split("."))}
    for name in ("at_once.py", "pipes.py", "transports.py", "web.py"):
        tree = ast.parse((FOLDER / name).read_text())
        own: set[str] = set()
        used: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                own |= {inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("twisted"):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute):
                used.add(node.attr)
        private = {word for word in used - own if word.startswith("_") and not word.endswith("__")}
        assert private - looked_for == set()


def test_versions() -> None:
    """The oldest Twisted is the one that the package's metadata, and its tests in CI, name."""
    root = FOLDER.parent.parent
    assert '"Twisted[tls] >= {}.{}",\n'.format(*OLDEST) in (root / "pyproject.toml").read_text()
    assert "Twisted == {}.{}.0\n".format(*OLDEST) in (root / ".ci" / "oldest.txt").read_text()
