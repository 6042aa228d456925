"""
HTTP proxies that others have written, squid and tinyproxy, while they run.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.commands import PATIENCE
from tests.kit.documented import Ports
from tests.kit.foreign import path_of

_SQUID = """\
http_port 127.0.0.1:{port}
pid_filename {folder}/squid.pid
cache_log {folder}/cache.log
access_log none
cache_store_log none
coredump_dir none
netdb_filename none
max_filedescriptors 1024
pinger_enable off
http_access allow all
"""

# Any port may be named, as none is.
_TINYPROXY = """\
Listen 127.0.0.1
Port {port}
Timeout 600
LogLevel Info
MaxClients 100
BasicAuth user pw
"""

#: What each program says when it listens.
_LISTENS = {"squid": "Accepting HTTP Socket connections", "tinyproxy": "Accepting connections"}


@contextmanager
def squid(folder: Path) -> Iterator[int]:
    """squid, which lets everybody through; its port."""
    with Ports() as ports:
        port = int(ports["3128"])
        configuration = folder / "squid.conf"
        configuration.write_text(_SQUID.format(port=port, folder=folder))
        if os.getuid() == 0:
            # It changes to a user of its own, and writes there.
            shutil.chown(folder, "proxy")
            for above in folder.parents[:2]:
                above.chmod(above.stat().st_mode | 0o011)
        # A service of its own: all of the same name share memory, which outlives one that is killed.
        service = f"tests{port}"
        with _running(port, "squid", "-N", "-d", "1", "-n", service, "-f", str(configuration)):
            yield port
        for shared in Path("/dev/shm").glob(f"{service}-*"):
            shared.unlink()


@contextmanager
def tinyproxy(folder: Path) -> Iterator[int]:
    """tinyproxy, which lets ``user`` with the password ``pw`` through; its port."""
    with Ports() as ports:
        port = int(ports["3128"])
        configuration = folder / "tinyproxy.conf"
        configuration.write_text(_TINYPROXY.format(port=port))
        with _running(port, "tinyproxy", "-d", "-c", str(configuration)):
            yield port


@contextmanager
def _running(port: int, program: str, *arguments: str) -> Iterator[None]:
    """A program in the foreground, from when it listens on a port; killed, as squid takes long."""
    path = path_of(program)
    assert path is not None, f"there is no {program} here"
    process = subprocess.Popen(
        [path, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    alarm = threading.Timer(PATIENCE, process.kill)
    alarm.start()
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if _LISTENS[program] in line:
                break
        else:
            pytest.fail(f"{program} does not listen: {''.join(said)}")
        # What it says later would fill the pipe.
        rest = threading.Thread(target=process.stdout.read)
        rest.start()
        # squid says so a moment before.
        while not _takes_connections(port):
            assert process.poll() is None, f"{program} has ended"
            os.sched_yield()
        alarm.cancel()
        yield
    finally:
        alarm.cancel()
        process.kill()
        process.wait(PATIENCE)
        rest.join(PATIENCE)
        process.stdout.close()  # type: ignore[union-attr]  # it is a pipe


def _takes_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True
