"""
systemd itself, as the first process of namespaces of its own, for the units of a test.

It sees this machine's files, which it cannot change but for the test's folder; its processes, its
network and its control groups are no others'.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.kit.commands import PATIENCE

_SYSTEMD = Path("/lib/systemd/systemd")
# Version 1: its hierarchy for systemd alone. Others may not be used, and are left alone.
_GROUPS = Path("/sys/fs/cgroup/systemd")

_SCRIPT = """
set -e
mount --make-rprivate /
mount --bind "$FOLDER" "$FOLDER"
mount -o remount,bind,ro /
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
cp "$FOLDER"/*.service "$FOLDER"/*.socket /run/systemd/system
printf '[Unit]\\nDefaultDependencies=no\\n' > /run/systemd/system/test.target
mount -t tmpfs tmpfs /sys/fs/cgroup
mkdir /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd,xattr cgroup /sys/fs/cgroup/systemd
mount -o remount,ro /sys/fs/cgroup
export container=test
exec /lib/systemd/systemd --system --unit=test.target --log-target=null --show-status=no
"""


class Manager:
    """systemd while it runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def systemctl(self, *arguments: str) -> str:
        """
        :return: what it prints; it must not fail.
        """
        command = ["nsenter", "--all", "--target", str(self._pid), "systemctl", *arguments]
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False, text=True)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout.strip()

    def shows(self, unit: str, name: str) -> str:
        """What a property is now."""
        return self.systemctl("show", unit, "--property", name, "--value")

    def wait_until(self, unit: str, name: str, value: str) -> None:
        """Wait until a property is this."""
        late = time.monotonic() + PATIENCE
        while (is_now := self.shows(unit, name)) != value:
            assert time.monotonic() < late, is_now


@contextmanager
def systemd(folder: Path) -> Iterator[Manager]:
    """systemd with the units in a folder. The running test is skipped where that cannot be had."""
    if os.geteuid() != 0 or not _SYSTEMD.exists() or not os.access(_GROUPS / "cgroup.procs", os.W_OK):
        pytest.skip("this needs root, systemd, and its hierarchy of control groups")
    group = _GROUPS / f"upgrade-switch-{os.getpid()}"
    group.mkdir()
    # From within a group of its own, it sees nothing above that.
    enter = f'echo $$ > {group}/cgroup.procs; exec unshare "$@"'
    spaces = ["--pid", "--mount", "--mount-proc", "--uts", "--ipc", "--net", "--cgroup"]
    command = ["sh", "-c", enter, "unshare", "--fork", "--kill-child", *spaces, "sh", "-c", _SCRIPT]
    environment = {**os.environ, "FOLDER": str(folder)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as process:
        try:
            yield _started(process)
        finally:
            process.kill()
            process.wait()
            _remove(group)


def _started(process: subprocess.Popen[bytes]) -> Manager:
    late = time.monotonic() + PATIENCE
    while time.monotonic() < late:
        if process.poll() is not None:
            pytest.skip("this machine lets nobody have namespaces")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children and Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n":
            manager = Manager(int(children[0]))
            with suppress(AssertionError):
                manager.wait_until("test.target", "ActiveState", "active")
                return manager
    raise AssertionError("systemd does not start")


def _remove(group: Path) -> None:
    """Remove a control group, and those in it, whose processes are about to end."""
    for folder, _, _ in os.walk(group, topdown=False):
        late = time.monotonic() + PATIENCE
        while True:
            try:
                os.rmdir(folder)
                break
            except OSError:
                assert time.monotonic() < late
