"""The house: which room imports which, how large its parts are, and where private names may stand."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import upgrade_switch
from tests.conftest import ORDER

ROOT = Path(upgrade_switch.__file__).parent

#: From the bottom to the top: a room imports those in lines above its own, and itself.
FLOORS = (
    {"fields", "_version", "_lazy"},
    {"errors"},
    {"_extras"},
    {"negotiation"},
    {"interfaces"},
    {"_twisted"},
    {"sending", "idleness", "half_closed"},
    {"takeover"},
    {"connection"},
    {"splicing", "http2", "observe"},
    {"connecting"},
    {"server", "client"},
    {"protocols", "proxy"},
    {"testing", "command"},
)
#: Rooms that know some of those below them only.
KNOWN = {
    "http2": {
        "errors",
        "fields",
        "negotiation",
        "interfaces",
        "_twisted",
        "sending",
    },
}
#: Modules that import nothing but the standard library and each other.
PURE = {"upgrade_switch.fields", "upgrade_switch.http2.fields", "upgrade_switch.http2.lists"}
#: Rooms whose parts do not know one another, but for those that are named.
APART = {
    "protocols": {
        "_tunnel",
        "_connect",
        "_client_handshake",
        "_handshake",
        "_heartbeat",
        "_origin",
        "_proxy_header",
    },
    "command": {
        "certificates",
        "collector",
        "exits",
        "fields",
        "listening",
        "options",
        "reactor",
        "secrets",
    },
}
#: These exist to put others together.
ENTRANCES = {"upgrade_switch", "upgrade_switch.command.subcommands", "upgrade_switch.protocols"}

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60
MOST_ANYS = 150

#: Where private names of others' may stand.
TWISTED = "upgrade_switch._twisted"
AUTOBAHN = "upgrade_switch.protocols._websocket._internals"


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


@cache
def imports_of(module: str) -> frozenset[str]:
    """The modules of the package that one imports, anywhere in it: in functions, for types alone."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, (above, node.module)))
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found |= {name for name in (inner if inner in MODULES else source,) if name in MODULES}
    return frozenset(found - {module})


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


def floor_of(module: str) -> int:
    (floor,) = (number for number, rooms in enumerate(FLOORS) if room_of(module) in rooms)
    return floor


@pytest.mark.parametrize("module", sorted(MODULES.keys() - ENTRANCES))
def test_imports_run_one_way(module: str) -> None:
    """A module imports its own room, and rooms on floors below: for types and inside functions, too."""
    for imported in imports_of(module):
        assert imported not in {"upgrade_switch"}, "the public names are for users"
        same_room = room_of(imported) == room_of(module)
        assert same_room or floor_of(imported) < floor_of(module), imported


@pytest.mark.parametrize("room", KNOWN)
def test_rooms_that_know_few(room: str) -> None:
    """A room that is for both sides knows no more than it needs."""
    modules = [module for module in MODULES if room_of(module) == room]
    assert modules
    for module in modules:
        assert {*map(room_of, imports_of(module))} <= {room, *KNOWN[room]}, module


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules(module: str) -> None:
    """Grammar is bytes in and values out, without Twisted or h2."""
    assert imports_of(module) <= PURE
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            sources = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            sources = [node.module or ""]
        else:
            continue
        for source in sources:
            assert source.partition(".")[0] in sys.stdlib_module_names, source


@pytest.mark.parametrize("room", APART)
def test_parts_that_do_not_know_one_another(room: str) -> None:
    """What stands side by side in a room knows only what is there for all of it."""
    for module in sorted(MODULES.keys() - ENTRANCES):
        parts = module.split(".")
        if parts[1:2] == [room] and len(parts) > 2:
            beside = {
                imported.split(".")[2]
                for imported in imports_of(module)
                if imported.split(".")[1:2] == [room] and len(imported.split(".")) > 2
            }
            assert beside <= {parts[2], *APART[room]}, module


def test_no_circles() -> None:
    """No module imports itself by way of others."""
    try:
        TopologicalSorter({module: imports_of(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", MODULES)
def test_sizes(module: str) -> None:
    """No module and no function is too long to be understood."""
    assert len(MODULES[module].read_text().splitlines()) <= MOST_LINES
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= MOST_LINES_OF_A_FUNCTION, node.name


def test_any() -> None:
    """``Any`` stands only where no type says it: how often it does is not to grow."""
    uses = [
        node
        for module in MODULES
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Name) and node.id == "Any"
    ]
    assert len(uses) <= MOST_ANYS


@pytest.mark.parametrize("module", MODULES)
def test_ignored_types(module: str) -> None:
    """Each ``# type: ignore`` has its reason behind it."""
    for line in MODULES[module].read_text().splitlines():
        _, found, rest = line.partition("# type: ignore")
        assert not found or re.match(r"\[[\w, -]+\]  # \w", rest), line


def is_for_others(module: str) -> bool:
    """Whether private names of others' may stand in a module."""
    return module == AUTOBAHN or module.startswith(TWISTED)


ELSEWHERE = [module for module in MODULES if not is_for_others(module)]


@cache
def own_private_names() -> set[str]:
    """The private names that the package itself makes, other than in place of others'."""
    own: set[str] = set()
    for module in ELSEWHERE:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                # What is set on anything else may be a name of others'.
                own |= {node.attr} if ast.unparse(node.value) in ("self", "cls") else set()
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                own.add(node.target.id)
    return own


#: Python's own: of collections.namedtuple, which are public, and what abc and typing give to classes.
PYTHONS = {"_asdict", "_fields", "_make", "_replace", "_abc_impl", "_is_protocol"}
#: What is given the name of an attribute.
ATTRIBUTE_BY_NAME = {"delattr", "getattr", "hasattr", "setattr"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in PYTHONS


def is_others(module: str) -> bool:
    """Whether a module is neither this package's nor Python's own."""
    package = module.partition(".")[0]
    return package != "upgrade_switch" and package not in sys.stdlib_module_names


def private_uses(module: str) -> Iterator[str]:
    own = own_private_names() | set(MODULES[module].parts) | {m.rpartition(".")[2] for m in MODULES}
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ATTRIBUTE_BY_NAME:
            names = [
                ast.literal_eval(name) for name in node.args[1:2] if isinstance(name, ast.Constant)
            ]
            yield from (name for name in names if is_private(name) and name not in own)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from filter(is_private, names)


@pytest.mark.parametrize("module", ELSEWHERE)
def test_private_names_of_others(module: str) -> None:
    """A private name of Twisted's, or of another package's, stands in the room that is for them."""
    assert sorted(private_uses(module)) == []


@pytest.mark.parametrize("module", ELSEWHERE)
def test_private_names_that_override(module: str) -> None:
    """No class gives a private method or attribute of others' classes another meaning."""
    loaded = importlib.import_module(module)
    for cls in vars(loaded).values():
        if not inspect.isclass(cls) or cls.__module__ != module:
            continue
        theirs = [base for base in cls.__mro__ if is_others(base.__module__)]
        for name in filter(is_private, vars(cls)):
            assert not any(name in vars(base) for base in theirs), f"{cls.__name__}.{name}"


def test_tests_do_not_import_one_another() -> None:
    """What test modules share is in the kit."""
    found = [
        (path.name, node.module)
        for path in Path(__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and ".test_" in (node.module or "")
    ]
    assert found == []


def test_contributing() -> None:
    """CONTRIBUTING.md names every folder that has tests, and no target that make does not know."""
    page = (ROOT.parent / "CONTRIBUTING.md").read_text()
    tests = Path(__file__).parent
    folders = {path.parent.name for path in tests.rglob("test_*.py")} - {tests.name}
    assert {name for name in folders if f"`{name}/`" not in page} == set()
    makefile = (ROOT.parent / "Makefile").read_text()
    named = {name for names in re.findall(r"`make ([a-z -]+)", page) for name in names.split()}
    assert {name for name in named if f"\n{name}:" not in makefile} == set()


def test_order_of_the_tests() -> None:
    """What the tests' order names is there, and it names every folder that has tests."""
    tests = Path(__file__).parent
    assert [name for name in ORDER if not (tests / name).exists()] == []
    assert {path.parts[len(tests.parts)] for path in tests.glob("*/**/test_*.py")} <= set(ORDER)
