"""
What importing the command does, and does not.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import upgrade_switch


def test_no_reactor() -> None:
    """The command's modules import no reactor: ``twist``, for example, still chooses one."""
    code = (
        "import sys, upgrade_switch.command, upgrade_switch.command.server.service;"
        "sys.exit('twisted.internet.reactor' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version() -> None:
    """The installed package's version is the one in its source."""
    assert upgrade_switch.__version__ == version("upgrade_switch")
