"""
Every kind of install: Twisted finds the package's plugins, the command runs, and uninstalling leaves
nothing.

Each install gets a virtual environment of its own, in which the dependencies are those of the
environment that the tests run in.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

#: How long a program may take before the test fails, in seconds.
PATIENCE = 120

#: What each kind of editable install tells pip.
EDITABLE = {
    "editable": [],
    "editable, compat": ["--config-settings=editable_mode=compat"],
    "editable, strict": ["--config-settings=editable_mode=strict"],
}

KINDS = (*EDITABLE, "plain", "wheel", "sdist", "Twisted elsewhere", "user", "target")

#: Run in an install: says what is there.
LOOK = r"""
import json
from twisted import plugins
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString
from twisted.plugin import getCache
import upgrade_switch
ours = {name: found.plugins for name, found in getCache(plugins).items() if "upgrade_switch" in name}
endpoint = clientFromString(reactor, r"upgrade:url=http\://localhost/ssh:token=ssh")
print(json.dumps({
    "place": upgrade_switch.__file__,
    "endpoint": isinstance(endpoint, upgrade_switch.UpgradeEndpoint),
    "plugins": sorted(name for name in ours if ours[name]),
}))
"""

#: Run after uninstalling: there is nothing to be imported, and no plugin.
LOOK_AGAIN = r"""
import importlib.util
from twisted import plugins
from twisted.plugin import getCache
assert importlib.util.find_spec("upgrade_switch") is None
assert not [name for name in getCache(plugins) if name.startswith("upgrade_switch")]
"""


def run(*command: object, cwd: Path, **env: str) -> str:
    """Run a program, which must not fail, with no Python settings of ours; its standard output."""
    home = cwd / "home"
    home.mkdir(exist_ok=True)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**clean, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, into: Path) -> Path:
    """Build a ``wheel`` or an ``sdist`` as pip's own way to do it would."""
    into.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(into)!r})"
    run(sys.executable, "-c", code, cwd=source)
    (built,) = into.iterdir()
    return built


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all packages of this environment, but for Twisted and this one."""
    folder = tmp_path_factory.mktemp("dependencies")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("upgrade_switch", "__editable__", "twisted", "_virtualenv")):
            (folder / entry.name).symlink_to(entry)
    return folder


def copy_source(to: Path) -> Path:
    """The project's files, without what is made from them."""
    ignored = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "__pycache__", "dropin.cache", "_build", "node_modules"
    )
    return Path(shutil.copytree(ROOT, to, ignore=ignored))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_source(tmp_path_factory.mktemp("source") / "source")


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel") / "dist")


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", source, tmp_path_factory.mktemp("sdist") / "dist")


class Install:
    """An environment in which the package is installed in one of the :data:`KINDS`."""

    def __init__(self, kind: str, folder: Path, dependencies: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.venv = folder / "venv"
        self.python = self.venv / "bin" / "python"
        self.env: dict[str, str] = {}
        # Only an environment that sees the system's packages sees the user's.
        more = ["--system-site-packages"] if kind == "user" else []
        run(sys.executable, "-m", "venv", "--without-pip", *more, self.venv, cwd=folder)
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.packages = Path(run(self.python, "-c", code, cwd=folder).strip())
        (self.packages / "dependencies.pth").write_text(f"{dependencies}\n")
        self._place_twisted()

    def _place_twisted(self) -> None:
        """Twisted is where pip installs, as it is for most; or not, as in a system's packages."""
        place = self.packages
        if self.kind == "Twisted elsewhere":
            place = self.folder / "elsewhere"
            (self.packages / "elsewhere.pth").write_text(f"{place}\n")
        for entry in Path(sysconfig.get_path("purelib")).glob("twisted*"):
            shutil.copytree(
                entry, place / entry.name, ignore=shutil.ignore_patterns("test", "upgrade_switch*")
            )

    def pip(self, *arguments: object) -> None:
        pip = (sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check")
        run(*pip, *arguments, cwd=self.folder, **self.env)

    def install(self, what: Path) -> None:
        options: list[object] = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
        self.bin = self.venv / "bin"
        if self.kind in EDITABLE:
            options += [*EDITABLE[self.kind], "--editable"]
        elif self.kind == "user":
            self.env["PYTHONUSERBASE"] = str(self.folder / "user")
            self.bin = self.folder / "user" / "bin"
            options.append("--user")
        elif self.kind == "target":
            target = self.folder / "target"
            self.env["PYTHONPATH"] = str(target)
            self.bin = target / "bin"
            options += ["--target", target]
        self.pip("install", *options, what)

    def look(self, code: str) -> str:
        return run(self.python, "-c", code, cwd=self.folder, **self.env)

    def files(self) -> set[Path]:
        """What is in the environment; Twisted's own notes about plugins do not count."""
        paths = self.venv.rglob("*")
        return {path for path in paths if path.is_file() and path.name != "dropin.cache"}


@pytest.fixture(params=KINDS)
def install(
    request: pytest.FixtureRequest, tmp_path: Path, dependencies: Path
) -> Iterator[tuple[Install, set[Path]]]:
    """An install, and the files that were there before it."""
    kind = request.param
    made = Install(kind, tmp_path, dependencies)
    if kind in EDITABLE:
        # These write into the source.
        what = copy_source(tmp_path / "source")
    elif kind == "plain":
        what = request.getfixturevalue("source")
    else:
        what = request.getfixturevalue("sdist" if kind == "sdist" else "wheel")
    before = made.files()
    made.install(what)
    yield made, before
    shutil.rmtree(tmp_path)


def test_install(install: tuple[Install, set[Path]], source: Path) -> None:
    """Twisted finds each plugin, the command runs, and uninstalling leaves nothing behind."""
    made, before = install
    seen: dict[str, Any] = json.loads(made.look(LOOK))
    assert Path(seen["place"]).is_relative_to(made.folder)
    assert seen["endpoint"]
    assert seen["plugins"] == sorted(path.stem for path in source.glob("twisted/plugins/*.py"))
    said = run(made.bin / "upgrade-switch", "--help", cwd=made.folder, **made.env)
    assert said.startswith("Usage: upgrade-switch")
    # What the command twist runs.
    twist = (made.python, "-m", "twisted", "upgrade-switch", "--help")
    assert "upgrade-switch [options]" in run(*twist, cwd=made.folder, **made.env)
    if made.kind in ("target", "user"):
        # pip does not uninstall what is outside of the virtual environment.
        return
    made.pip("uninstall", "--quiet", "--yes", "upgrade_switch")
    made.look(LOOK_AGAIN)
    assert made.files() - before == set()


@pytest.mark.parametrize("kind", EDITABLE)
def test_editable_is_the_tree(kind: str, tmp_path: Path, dependencies: Path) -> None:
    """What is changed in the tree is changed in an editable install, plugins too."""
    made = Install(kind, tmp_path, dependencies)
    source = copy_source(tmp_path / "source")
    made.install(source)
    with (source / "upgrade_switch" / "errors.py").open("a") as module:
        module.write("\nCHANGED = 1\n")
    with (source / "twisted" / "plugins" / "upgrade_switch_endpoints.py").open("a") as module:
        module.write("\nCHANGED = 2\n")
    made.look(
        "from upgrade_switch.errors import CHANGED as one\n"
        "from twisted.plugins.upgrade_switch_endpoints import CHANGED as two\n"
        "assert (one, two) == (1, 2)"
    )


def test_wheel(wheel: Path, source: Path) -> None:
    """A wheel has the whole package with its data and marker for types, the plugins, and no more."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = files_of(source, "upgrade_switch/**/*")
    plugins = files_of(source, "twisted/plugins/*.py")
    assert "twisted/plugins/__init__.py" not in plugins
    assert "upgrade_switch/py.typed" in package
    described = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - described == package | plugins
    assert {name.split("/", 1)[1] for name in described} >= {"METADATA", "RECORD", "entry_points.txt"}


def test_sdist(sdist: Path, source: Path, tmp_path: Path) -> None:
    """An sdist has all of the tests, the docs and the examples, and nothing that is made from them."""
    shutil.unpack_archive(sdist, tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    there = files_of(unpacked, "**/*")
    for folder in ("benchmarks", "docs", "examples", "fuzz", "tests", "twisted", "upgrade_switch"):
        assert files_of(source, f"{folder}/**/*") - there == set()
    assert not [name for name in there if "__pycache__" in name or name.endswith("dropin.cache")]


def files_of(folder: Path, pattern: str) -> set[str]:
    """The files in a folder that match, as POSIX paths below it; the build's own notes do not count."""
    names = {path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file()}
    return {name for name in names if not name.startswith(("upgrade_switch.egg-info/", "build/"))}
