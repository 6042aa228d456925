"""
haproxy and nginx in front of a site, with the configurations of the how-tos.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.kit.documented import Ports, blocks_of, daemon
from tests.kit.foreign import path_of

NGINX = """\
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {included}
}}
"""


def _documented(page: str, language: str, changes: Mapping[str, str]) -> str:
    """The first block of a page, changed; each of the changes has to find something."""
    text = next(block.text for block in blocks_of(page) if block.language == language)
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def haproxy(folder: Path, token: str, server: str, more: str = "") -> Iterator[int]:
    """
    haproxy, in front of one server.

    :param token: passes, beside ``websocket``.
    :param server: as its ``server`` lines have it.
    :param more: for the section ``defaults``.
    :return: its port.
    """
    with Ports() as ports:
        changes = {
            "shout": token,
            "bind :8080": f"bind 127.0.0.1:{ports['8080']}",
            "bind :2222": f"bind 127.0.0.1:{ports['2222']}",
            "127.0.0.1:8081 check send-proxy-v2": server,
            "    mode http\n": f"    mode http\n    {more}\n",
        }
        file, pid_file = folder / "haproxy.cfg", folder / "haproxy.pid"
        file.write_text(_documented("howto/haproxy.md", "haproxy", changes))
        command = [path_of("haproxy") or "", "-D", "-f", str(file), "-p", str(pid_file)]
        with daemon(command, pid_file):
            yield int(ports["8080"])


@contextmanager
def nginx(folder: Path, token: str, server: str, more: str = "") -> Iterator[int]:
    """
    nginx, in front of one server.

    :param token: passes, beside ``websocket``.
    :param server: as in a URL.
    :param more: for the block ``location``.
    :return: its port.
    """
    with Ports() as ports:
        changes = {
            "shout": token,
            "listen 8080": f"listen 127.0.0.1:{ports['8080']}",
            "127.0.0.1:8081": server,
            "proxy_http_version 1.1;": f"proxy_http_version 1.1;\n{more}",
        }
        included = _documented("howto/nginx.md", "nginx", changes)
        # Its workers would change to a user of their own, who must not see the tests' folders.
        user = "user root;" if os.getuid() == 0 else ""
        file = folder / "nginx.conf"
        file.write_text(NGINX.format(folder=folder, included=included, user=user))
        command = [path_of("nginx") or "", "-c", str(file), "-e", str(folder / "error.log")]
        with daemon(command, folder / "nginx.pid"):
            yield int(ports["8080"])
