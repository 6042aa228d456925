"""
The reference has what is public, and links to what others have.
"""

from __future__ import annotations

import re
import zlib
from importlib import import_module
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from tests.kit import ROOT
from tests.kit.documented import DOCS


@pytest.mark.parametrize(
    "module",
    [
        "upgrade_switch",
        "upgrade_switch.errors",
        "upgrade_switch.interfaces",
        "upgrade_switch.observe",
        "upgrade_switch.protocols",
        "upgrade_switch.proxy",
        "upgrade_switch.testing",
    ],
)
def test_every_name_is_in_the_reference(module: str) -> None:
    """The reference has every public name. (It includes the whole module of errors.)"""
    reference = "".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    public = set(import_module(module).__all__)
    if f".. automodule:: {module}\n   :members:\n" in reference:
        return
    assert {name for name in public if not re.search(rf"\b{name}\b", reference)} == set()


def test_only_public_paths() -> None:
    """Docs, README and examples import from the public modules, and name no others."""
    public = {"errors", "interfaces", "observe", "protocols", "proxy", "testing"}
    texts = [ROOT / "README.md", *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.py")]
    named = {
        (path.relative_to(ROOT).as_posix(), module)
        for path in texts
        if "_build" not in path.parts
        for module in re.findall(r"\bupgrade_switch\.([a-z_.]*[a-z])(?![\w(])", path.read_text())
    }
    assert {entry for entry in named if entry[1].split(".")[0] not in public} == set()
    assert {entry for entry in named if "." in entry[1]} == set()


def entries_of(inventory: Path) -> tuple[bytes, bytes]:
    """An inventory's head, and its entries."""
    head, mark, packed = inventory.read_bytes().partition(b"using zlib.\n")
    return head + mark, zlib.decompress(packed)


def test_inventories_are_what_their_script_makes(tmp_path: Path) -> None:
    """The inventories in docs/ are those that the script beside them makes, of names that exist."""
    folder = DOCS / "_inventories"
    script: dict[str, Any] = run_path(str(folder / "make.py"))
    script["main"](tmp_path)
    made = {path.name: entries_of(path) for path in tmp_path.iterdir()}
    assert made == {path.name: entries_of(path) for path in folder.glob("*.inv")}
