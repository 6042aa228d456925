"""
Every kind of install: Twisted finds the package's plugins, the command runs, without any extra, and
uninstalling leaves nothing.

The environments in which the package is installed have the packages that it requires, and no others;
they are linked from the environment that the tests run in.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.kit.commands import LOCAL
from tests.kit.programs import Program

ROOT = Path(__file__).parent.parent.parent

#: How long a program may take before the test fails, in seconds.
PATIENCE = 120

#: What each kind of editable install tells pip.
EDITABLE = {
    "editable": [],
    "editable, compat": ["--config-settings=editable_mode=compat"],
    "editable, strict": ["--config-settings=editable_mode=strict"],
}

#: All but the editable ones install the wheel: so does pip where it is given a source tree or an sdist.
KINDS = ("wheel", "user", "target", "Twisted elsewhere", *EDITABLE)

#: Run in an install: says what is there; then it is the command twist.
LOOK = r"""
import json, runpy, sys
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
sys.argv[1:] = ["upgrade-switch", "--help"]
runpy.run_module("twisted", run_name="__main__", alter_sys=True)
"""

#: Run after uninstalling: there is nothing to be imported, and no plugin.
LOOK_AGAIN = r"""
import importlib.util
from twisted import plugins
from twisted.plugin import getCache
assert importlib.util.find_spec("upgrade_switch") is None
assert not [name for name in getCache(plugins) if name.startswith("upgrade_switch")]
"""

#: Run in an editable install after the tree has been changed.
LOOK_CHANGED = """
from upgrade_switch.errors import CHANGED as one
from twisted.plugins.upgrade_switch_endpoints import CHANGED as two
assert (one, two) == (1, 2)
"""


def clean_environment(cwd: Path, **env: str) -> dict[str, str]:
    """An environment for a program, without the Python settings of this process."""
    home = cwd / "home"
    home.mkdir(exist_ok=True)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    return {**clean, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", **env}


def run(*command: object, cwd: Path, stdin: str = "", **env: str) -> str:
    """Run a program, which must not fail; its standard output."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=clean_environment(cwd, **env),
        input=stdin,
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


def requirements_of(found: Distribution, extras: frozenset[str] = frozenset()) -> Iterator[Requirement]:
    """What a package requires here, with these extras of its own."""
    for line in found.requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield requirement


def required() -> dict[str, Distribution]:
    """All packages that this one requires without any extra, by name."""
    found: dict[str, Distribution] = {}
    waiting = list(requirements_of(distribution("upgrade_switch")))
    seen = set()
    while waiting:
        requirement = waiting.pop()
        known = (re.sub(r"[-_.]+", "-", requirement.name).lower(), frozenset(requirement.extras))
        if known in seen:
            continue
        seen.add(known)
        found[known[0]] = distribution(requirement.name)
        waiting += requirements_of(found[known[0]], known[1])
    return found


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all packages that this one requires, but for Twisted; with setuptools and pip."""
    folder = tmp_path_factory.mktemp("dependencies")
    needed = required()
    assert {"twisted", "h11", "pyopenssl"} <= needed.keys()
    assert not {"treq", "autobahn", "h2", "prometheus-client"} & needed.keys()
    del needed["twisted"]
    # What installs the package, and what builds it: pip is told not to fetch that.
    for tool in ("pip", "setuptools"):
        needed[tool] = distribution(tool)
    for found in needed.values():
        link_files_of(found, folder)
    return folder


def link_files_of(found: Distribution, folder: Path, own: str = "") -> None:
    """Link what a package has in one of its folders, but for what is there already."""
    depth = len(Path(own).parts)
    inside = [file.parts for file in found.files or () if file.parts[:depth] == Path(own).parts]
    for name in {parts[depth] for parts in inside} - {"..", "__pycache__", "twisted", "plugins"}:
        if not (folder / own / name).exists():
            (folder / own / name).symlink_to(str(found.locate_file(Path(own) / name)))


def copy_source(to: Path) -> Path:
    """The project's files, without what is made from them."""
    ignored = shutil.ignore_patterns(
        ".git", ".venv*", ".*_cache", ".hypothesis", "build", "dist", "*.egg-info", "__pycache__",
        "dropin.cache", "_build", "node_modules",
    )  # fmt: skip
    return Path(shutil.copytree(ROOT, to, ignore=ignored))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_source(tmp_path_factory.mktemp("source") / "source")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source with bytecode: of an editable install, each program would compile it anew."""
    compiled = copy_source(tmp_path_factory.mktemp("compiled") / "source")
    compile_all = (sys.executable, "-m", "compileall", "-q", "upgrade_switch", "twisted")
    run(*compile_all, cwd=compiled, PYTHONDONTWRITEBYTECODE="")
    return compiled


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel") / "dist")


@pytest.fixture(scope="module")
def unpacked(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in the sdist."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.unpack_archive(build("sdist", source, folder / "dist"), folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


class Environment:
    """A virtual environment for one install after the other."""

    def __init__(self, folder: Path, dependencies: Path, twisted_elsewhere: bool = False) -> None:
        """
        :param twisted_elsewhere: Twisted is not where pip installs, as among a system's packages.
        """
        self.folder = folder
        self.venv = folder / "venv"
        self.python = self.venv / "bin" / "python"
        run(sys.executable, "-m", "venv", "--without-pip", self.venv, cwd=folder)
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        packages = Path(run(self.python, "-c", code, cwd=folder).strip())
        (packages / "dependencies.pth").write_text(f"{dependencies}\n")
        place = packages
        if twisted_elsewhere:
            place = folder / "elsewhere"
            (packages / "elsewhere.pth").write_text(f"{place}\n")
        # Only the folder for plugins is the environment's own, and the one that it is in.
        for own in ("", "twisted", "twisted/plugins"):
            (place / own).mkdir(exist_ok=True)
            link_files_of(distribution("twisted"), place, own)

    def see_user(self, does: bool) -> None:
        """Only an environment that sees the system's packages sees the user's."""
        settings = self.venv / "pyvenv.cfg"
        text = settings.read_text()
        line = f"include-system-site-packages = {str(does).lower()}"
        settings.write_text(re.sub(r"include-system-site-packages = \w+", line, text))

    def files(self) -> set[Path]:
        """What is in the environment; Twisted's own notes about plugins do not count."""
        paths = self.venv.rglob("*")
        return {path for path in paths if path.is_file() and path.name != "dropin.cache"}


class Install:
    """The package, installed in one of the :data:`KINDS`."""

    def __init__(self, kind: str, what: Path, environment: Environment) -> None:
        self.kind = kind
        self.environment = environment
        self.folder = environment.folder
        self.env: dict[str, str] = {}
        self.bin = environment.venv / "bin"
        environment.see_user(kind == "user")
        options: list[object] = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
        if kind in EDITABLE:
            options += [*EDITABLE[kind], "--editable"]
        elif kind == "user":
            self.env["PYTHONUSERBASE"] = str(self.folder / "user")
            self.bin = self.folder / "user" / "bin"
            options.append("--user")
        elif kind == "target":
            target = self.folder / "target"
            self.env["PYTHONPATH"] = str(target)
            self.bin = target / "bin"
            options += ["--target", target]
        self.pip("install", *options, what)

    def pip(self, *arguments: object) -> None:
        pip = (self.environment.python, "-m", "pip", "--disable-pip-version-check")
        run(*pip, *arguments, cwd=self.folder, **self.env)

    def look(self, code: str) -> str:
        return run(self.environment.python, "-c", code, cwd=self.folder, **self.env)

    def uninstall(self) -> None:
        if self.kind in ("target", "user"):
            # pip does not uninstall what is outside of the virtual environment.
            shutil.rmtree(self.folder / self.kind)
        else:
            self.pip("uninstall", "--quiet", "--yes", "upgrade_switch")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, dependencies: Path) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment"), dependencies)


_IN_CI = ("user", "editable, compat", "editable, strict")


@pytest.fixture(
    params=[pytest.param(kind, marks=[pytest.mark.in_ci] if kind in _IN_CI else []) for kind in KINDS]
)
def install(
    request: pytest.FixtureRequest, tmp_path: Path, environment: Environment, dependencies: Path
) -> Iterator[tuple[Install, Path]]:
    """An install, and where it comes from; after the test, nothing of it is left."""
    kind = request.param
    if kind == "Twisted elsewhere":
        environment = Environment(tmp_path, dependencies, twisted_elsewhere=True)
    # An editable install writes into the source.
    what = request.getfixturevalue("compiled" if kind in EDITABLE else "wheel")
    if kind in EDITABLE:
        what = Path(shutil.copytree(what, tmp_path / "source"))
    before = environment.files()
    made = Install(kind, what, environment)
    yield made, what
    made.uninstall()
    made.look(LOOK_AGAIN)
    assert environment.files() - before == set()


def test_install(install: tuple[Install, Path], source: Path) -> None:
    """Twisted finds each plugin, and the commands run; what is editable is the tree, plugins too."""
    made, what = install
    line, twist = made.look(LOOK).split("\n", 1)
    seen: dict[str, Any] = json.loads(line)
    assert Path(seen["place"]).is_relative_to(what if made.kind == "editable" else made.folder.parent)
    assert seen["endpoint"]
    assert seen["plugins"] == sorted(path.stem for path in source.glob("twisted/plugins/*.py"))
    said = run(made.bin / "upgrade-switch", "--help", cwd=made.folder, **made.env)
    assert said.startswith("Usage: upgrade-switch")
    assert "upgrade-switch [options]" in twist
    if made.kind in EDITABLE:
        with (what / "upgrade_switch" / "errors.py").open("a") as module:
            module.write("\nCHANGED = 1\n")
        with (what / "twisted" / "plugins" / "upgrade_switch_endpoints.py").open("a") as module:
            module.write("\nCHANGED = 2\n")
        made.look(LOOK_CHANGED)
    elif made.kind == "wheel":
        serves(made, made.bin / "upgrade-switch", "serve")
        serves(made, made.environment.python, "-m", "twisted", "upgrade-switch")


def serves(made: Install, *command: object) -> None:
    """A server of an install has a status page, and echoes to a client of the same."""
    options = ["--listen", LOCAL, "--status", "/status"]
    words = [str(word) for word in command]
    env = clean_environment(made.folder, **made.env)
    with Program([*words, *options], cwd=made.folder, env=env, stdin=None) as server:
        url = server.says().removeprefix("listening on ")
        connect = (made.bin / "upgrade-switch", "connect", f"{url}echo", "echo")
        assert run(*connect, cwd=made.folder, stdin="hello", **made.env) == "hello"
        code = f"from urllib.request import urlopen as get; print(get({url + 'status'!r}).read())"
        assert "<html" in made.look(code)
        server.terminate()
        code, _, _ = server.ends()
    assert code == 0


def test_wheel(wheel: Path, source: Path) -> None:
    """
    A wheel has the whole package with its data and marker for types, the plugins, the manual page, and
    no more; its license is told as PEP 639 has it.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        fields = archive.read(metadata).decode().partition("\n\n")[0].splitlines()
    package = files_of(source, "upgrade_switch/**/*")
    plugins = files_of(source, "twisted/plugins/*.py")
    assert "twisted/plugins/__init__.py" not in plugins
    assert "upgrade_switch/py.typed" in package
    described = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    (page,) = [name for name in names if name.endswith(".data/data/share/man/man1/upgrade-switch.1")]
    assert names - described - {page} == package | plugins
    assert {name.split("/", 1)[1] for name in described} >= {
        "METADATA", "RECORD", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip
    assert "License-Expression: MIT" in fields
    assert not [line for line in fields if line.startswith(("License:", "Classifier: License"))]


def test_sdist(unpacked: Path, source: Path) -> None:
    """An sdist has all that its own tests need, and nothing that is made from it."""
    there = files_of(unpacked, "**/*")
    # The build's own settings file, and what describes the package to installers.
    made = {"PKG-INFO", "setup.cfg"}
    assert files_of(source, "**/*") - there == {".gitignore"}
    assert there - files_of(source, "**/*") == made


def test_wheel_of_the_sdist(
    unpacked: Path, wheel: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The wheel that is built from the sdist is the one that is built from the tree."""
    again = build("wheel", unpacked, tmp_path / "dist")
    assert hashes(again) == hashes(wheel)


def hashes(wheel: Path) -> dict[str, str]:
    """A hash of each file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: hashlib.sha256(archive.read(name)).hexdigest()
            for name in archive.namelist()
            if not name.endswith("RECORD")
        }


def files_of(folder: Path, pattern: str) -> set[str]:
    """The files in a folder that match, as POSIX paths below it; the build's own notes do not count."""
    names = {path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file()}
    return {name for name in names if not name.startswith(("upgrade_switch.egg-info/", "build/"))}
