"""
``upgrade-switch(1)``: the manual page is what the command's options say.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.kit.commands import PATIENCE
from tests.kit.foreign import needs
from upgrade_switch.command.completion import commands_of, options_of
from upgrade_switch.command.subcommands import MainOptions

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_is_up_to_date() -> None:
    """The page in docs/ is the one that docs/manpage.py writes; ``make man`` writes it anew."""
    done = subprocess.run(
        [sys.executable, str(DOCS / "manpage.py")], capture_output=True, timeout=PATIENCE, check=True
    )
    assert done.stdout == (DOCS / "upgrade-switch.1").read_bytes()


@needs("man")
def test_can_be_read() -> None:
    """man formats it without a warning, with every option of every subcommand."""
    done = subprocess.run(
        ["man", "--warnings", "-l", str(DOCS / "upgrade-switch.1")],
        env={"MANWIDTH": "200", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        timeout=PATIENCE,
        check=True,
        text=True,
    )
    assert done.stderr == ""
    for command in commands_of(MainOptions()):
        assert f"upgrade-switch {command.name} " in done.stdout
        for option in options_of(command.options):
            assert f"--{option.name}" in done.stdout


def test_every_option_is_described() -> None:
    """What stands beside an option's name is its value alone; the lines below it say what it does."""
    entries = (DOCS / "upgrade-switch.1").read_text().split(".TP\n\\fB\\-\\-")[1:]
    assert entries
    for entry in entries:
        heading, text, *_ = entry.split("\n")
        assert len(heading) < 80
        assert text
