"""
With a Twisted whose internals are not what the package is built on, importing it says so.

The tests run where a name in the source of one of Twisted's modules has become another one.
"""

from __future__ import annotations

import ast
import subprocess
import sys
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


def said_by(code: str, *arguments: str) -> str:
    """What some Python code prints, which must not fail, nor warn."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.mark.parametrize("need", NEEDED, ids=lambda need: f"{need.module}.{need.owner}")
def test_names(need: Need) -> None:
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
def test_private_owners(need: Need) -> None:
    """So is a private class or method that is not there any more."""
    code = RENAME + CAUGHT.format(module="upgrade_switch")
    said = said_by(code, need.module, need.owner.rpartition(".")[2])
    assert f"no {need.module}.{need.owner}" in said


def test_module() -> None:
    """So is a module that is not there any more."""
    code = RENAME + CAUGHT.format(module="upgrade_switch")
    said = said_by(code, "twisted.internet._newtls", "")
    assert said.endswith("this one has no twisted.internet._newtls")


def test_dependency_of_twisted() -> None:
    """A module of Twisted's that is there, but cannot be imported, is not said to be missing."""
    code = RENAME + "try: import upgrade_switch\nexcept ImportError as error: print(error.name)"
    assert said_by(code, "OpenSSL", "") == "OpenSSL"


def test_newer() -> None:
    """A Twisted that is newer than any that has been tested is taken as it is."""
    code = "import twisted; twisted.__version__ = '99.10.0rc1'; import upgrade_switch"
    assert said_by(code) == ""


def test_older() -> None:
    """A Twisted that is too old is refused, whatever it has."""
    code = "import twisted; twisted.__version__ = '24.3.0'" + CAUGHT.format(module="upgrade_switch")
    assert said_by(code) == (
        "Twisted 24.3.0 is too old for upgrade_switch, "
        "which is tested with Twisted {}.{} to {}.{}".format(*OLDEST, *NEWEST)
    )


def test_nothing_is_forgotten() -> None:
    """Every private name that the folder's modules use, and do not make themselves, is looked for."""
    looked_for = {name for need in NEEDED for name in (*need.names, *need.owner.split("."))}
    for name in ("transports.py", "web.py"):
        tree = ast.parse((FOLDER / name).read_text())
        own: set[str] = set()
        used: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                own |= {inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
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
