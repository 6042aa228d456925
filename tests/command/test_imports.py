"""
What importing the command does, and does not.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from importlib.metadata import version

import pytest

import upgrade_switch
from upgrade_switch.command import collector

#: What clients do without, whatever they are asked for; some of it takes longer to import than all that
#: they need.
NOT_FOR_CLIENTS = (
    "autobahn",
    "html.parser",
    "hyperlink",
    "tomllib",
    "treq",
    "twisted.spread",
    "twisted.web.guard",
    "twisted.web.server",
    "twisted.web.util",
    "upgrade_switch._twisted.requests",
    "upgrade_switch._twisted.web",
    "upgrade_switch.client.exchange",
    "upgrade_switch.client.shared",
    "upgrade_switch.command.completion",
    "upgrade_switch.command.probe",
    "upgrade_switch.command.server",
    "upgrade_switch.http2",
    "upgrade_switch.proxy",
    "upgrade_switch.server",
    "xml",
)

#: What ``connect`` to an http URL does without, besides: ssh starts it for each connection.
NOT_FOR_CONNECT = (
    *NOT_FOR_CLIENTS,
    "twisted.application",
    "upgrade_switch.command.client.forward",
    "upgrade_switch.command.listening",
    "upgrade_switch.observe",
    "upgrade_switch.protocols",
)

#: What is not needed to say which options there are.
NOT_FOR_HELP = (
    "OpenSSL",
    "attr",
    "cryptography",
    "twisted.internet",
    "twisted.logger",
    "twisted.web",
    "upgrade_switch.client",
    "upgrade_switch.command.client",
    "upgrade_switch.command.server",
    "upgrade_switch.errors",
    "zope.interface",
)

RUN = """
import gc, json, sys
from upgrade_switch.command import main
try:
    main(json.loads(sys.argv[1]))
except SystemExit:
    pass
print(json.dumps([*sys.modules, gc.isenabled()]), file=sys.stderr)
"""


def imported_by(*arguments: str) -> list[str]:
    """The modules that have been imported when the command has ended, which has a collector then."""
    command = [sys.executable, "-c", RUN, json.dumps(arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    *modules, collects = json.loads(done.stderr.splitlines()[-1])
    assert collects
    return modules


def test_no_reactor() -> None:
    """The command's modules import no reactor: ``twist``, for example, still chooses one."""
    code = (
        "import sys, upgrade_switch.command, upgrade_switch.command.server.service;"
        "sys.exit('twisted.internet.reactor' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "https://127.0.0.1:1/"])
def test_connect(url: str) -> None:
    """``connect`` imports nothing of the other subcommands, nor what only other URLs need."""
    imported = imported_by("connect", url, "echo")
    assert "upgrade_switch.client.endpoint" in imported
    assert [name for name in NOT_FOR_CONNECT if name in imported] == []


def test_forward() -> None:
    """``forward`` imports nothing of the server's side."""
    imported = imported_by("forward", "tcp:0", "http://127.0.0.1/", "echo", "--help")
    assert "upgrade_switch.command.client.forward" in imported
    assert [name for name in NOT_FOR_CLIENTS if name in imported] == []


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["no-such-command"], []])
def test_help(arguments: list[str]) -> None:
    """What needs no network imports nothing of it."""
    imported = imported_by(*arguments)
    assert "upgrade_switch.command.subcommands" in imported
    assert [name for name in NOT_FOR_HELP if name in imported] == []


def test_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is collected until the command's reactor runs; who has turned that off finds it off."""
    events: list[str] = []
    monkeypatch.setattr(gc, "freeze", lambda: events.append("freeze"))
    monkeypatch.setattr(gc, "disable", lambda: events.append("disable"))
    monkeypatch.setattr(gc, "enable", lambda: events.append("enable"))
    monkeypatch.setattr(gc, "isenabled", lambda: True)
    collector.wait_with_collecting()
    assert events == ["disable"]
    collector.collect_again()
    collector.collect_again()
    assert events == ["disable", "freeze", "enable"]
    monkeypatch.setattr(gc, "isenabled", lambda: False)
    collector.wait_with_collecting()
    collector.collect_again()
    assert events == ["disable", "freeze", "enable"]


def test_package() -> None:
    """The package itself imports nothing before it is asked for something; all it has can be."""
    code = (
        "import sys, upgrade_switch; assert not [n for n in sys.modules if n.startswith('twisted')];"
        "print(*[getattr(upgrade_switch, name).__name__ for name in dir(upgrade_switch)"
        " if name in ('errors', 'interfaces', 'observe', 'protocols', 'proxy', 'testing')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    modules = ("errors", "interfaces", "observe", "protocols", "proxy", "testing")
    assert done.stdout.split() == [f"upgrade_switch.{name}" for name in modules]


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
        "import upgrade_switch.splicing, upgrade_switch.server.site, upgrade_switch as u;"
        "print([type(getattr(u, name)).__name__ for name in u.__all__], set(u.__all__) <= set(dir(u)));"
        "print(hasattr(u, 'no_such_name'))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "module" not in done.stdout
    assert done.stdout.endswith("] True\nFalse\n")


def test_version() -> None:
    """The installed package's version is the one in its source."""
    assert upgrade_switch.__version__ == version("upgrade_switch")
