"""
What importing the command does, and does not.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import upgrade_switch

#: What ``connect`` to an http URL does without: ssh starts it for each connection.
NOT_FOR_CONNECT = (
    "autobahn",
    "html.parser",
    "tomllib",
    "treq",
    "twisted.application",
    "upgrade_switch.command.client.forward",
    "upgrade_switch.command.completion",
    "upgrade_switch.command.listening",
    "upgrade_switch.command.server",
    "upgrade_switch.http2",
    "upgrade_switch.observe",
    "upgrade_switch.protocols",
    "upgrade_switch.proxy",
    "upgrade_switch.server",
)


def test_no_reactor() -> None:
    """The command's modules import no reactor: ``twist``, for example, still chooses one."""
    code = (
        "import sys, upgrade_switch.command, upgrade_switch.command.server.service;"
        "sys.exit('twisted.internet.reactor' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_connect() -> None:
    """``connect`` imports nothing of the other subcommands, nor what only other URLs need."""
    code = (
        "import sys; from upgrade_switch.command import main;"
        "main(['connect', 'http://127.0.0.1:1/', 'echo']); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    imported = done.stdout.split()
    assert "upgrade_switch.client.endpoint" in imported
    assert [name for name in NOT_FOR_CONNECT if name in imported] == []


def test_one_side() -> None:
    """A program that uses one side does not import the other."""
    for ours, others in (("UpgradePool", "server"), ("UpgradeSite", "client")):
        code = (
            f"import sys; from upgrade_switch import {ours};"
            f"print([name for name in sys.modules if name.startswith('upgrade_switch.{others}')])"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert done.stdout == "[]\n"


def test_public_names() -> None:
    """Each public name is there, whatever has been imported before, and no other is."""
    code = (
        "import upgrade_switch.splice, upgrade_switch.server.site, upgrade_switch as u;"
        "print([type(getattr(u, name)).__name__ for name in u.__all__], set(u.__all__) <= set(dir(u)));"
        "print(hasattr(u, 'no_such_name'))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "module" not in done.stdout
    assert done.stdout.endswith("] True\nFalse\n")


def test_version() -> None:
    """The installed package's version is the one in its source."""
    assert upgrade_switch.__version__ == version("upgrade_switch")
