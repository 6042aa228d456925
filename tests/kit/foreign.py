"""
Programs that a plain machine lacks. A test that needs one is skipped without it, and says how to get
it; in CI, which installs them all, a skip is a failure (see ``tests/conftest.py``).
"""

from __future__ import annotations

import os
import shutil

import pytest

from tests.kit import ROOT

#: What to type on Debian and its kin, in the repository's folder.
HOW_TO_GET = {
    "chromium": "apt-get install chromium fonts-dejavu-core",
    "corkscrew": "apt-get install corkscrew",
    "crossbar": "make crossbar",
    "curl": "apt-get install curl",
    "dig": "apt-get install dnsutils",
    "docker": "make docker",
    "firefox": "apt-get install firefox-esr",
    "git": "apt-get install git",
    "h2load": "apt-get install nghttp2-client",
    "haproxy": "apt-get install haproxy",
    "ipptool": "apt-get install cups-ipp-utils",
    "lpstat": "apt-get install cups-client",
    "man": "apt-get install man-db",
    "ncat": "apt-get install ncat",
    "nghttp": "apt-get install nghttp2-client",
    "nginx": "apt-get install nginx-light",
    "node": "apt-get install nodejs npm",
    "proxytunnel": "apt-get install proxytunnel",
    "squid": "apt-get install squid",
    "ssh": "apt-get install openssh-client",
    "sshd": "apt-get install openssh-server",
    "systemd-analyze": "apt-get install systemd",
    "tinyproxy": "apt-get install tinyproxy",
    "ws (of Node)": "make node",
    "zsh": "apt-get install zsh",
}

#: Where programs are that are not on everybody's PATH.
_ELSEWHERE = (
    "/usr/sbin",
    "/usr/local/sbin",
    "/sbin",
    str(ROOT / ".venv-crossbar" / "bin"),
    str(ROOT / ".venv" / "docker" / "usr" / "bin"),
)

#: Where ``make node`` puts Node's packages.
NODE_MODULES = ROOT / ".venv" / "node" / "node_modules"


def path_of(program: str) -> str | None:
    """A program's whole path; None where it is missing."""
    if program == "ws (of Node)":
        return str(NODE_MODULES / "ws") if (NODE_MODULES / "ws").exists() else None
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *_ELSEWHERE]))


def _reason(program: str) -> str:
    return f"{program} is not installed here: {HOW_TO_GET[program]}"


def needs(program: str) -> pytest.MarkDecorator:
    """Skip a test where a program is missing."""
    return pytest.mark.skipif(path_of(program) is None, reason=_reason(program))


def find(program: str) -> str:
    """A program's whole path; skips the running test where it is missing."""
    found = path_of(program)
    if found is None:
        pytest.skip(_reason(program))
    return found
