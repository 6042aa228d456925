"""
The reverse proxies that ``proxy.py`` compares: how each is started, in front of which back end.

Each is one process on one core, passes upgrades, keeps its connections to the back end, and writes no
access log. A :class:`Proxy` knows what such a process costs.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from switching import HOST
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.logger import globalLogBeginner
from twisted.web.proxy import ReverseProxyResource
from twisted.web.resource import Resource
from twisted.web.server import Site

from upgrade_switch import UpgradeResource, UpgradeService, UpgradeSite
from upgrade_switch.protocols import tunnel
from upgrade_switch.proxy import UpgradeProxy

__all__ = ["OURS", "PROGRAMS", "Proxy", "why_missing"]

# What ours is called in the table.
OURS = "ours"

_NGINX = """
daemon off; master_process off; pid %(folder)s/nginx.pid; error_log stderr crit;
events { worker_connections 4096; }
http {
  access_log off; client_max_body_size 0; keepalive_requests 1000000000;
  client_body_temp_path %(folder)s; proxy_temp_path %(folder)s; fastcgi_temp_path %(folder)s;
  uwsgi_temp_path %(folder)s; scgi_temp_path %(folder)s;
  map $http_upgrade $passed { default upgrade; "" ""; }
  upstream back { server %(host)s:%(back)d; keepalive 64; keepalive_requests 1000000000; }
  server {
    listen %(host)s:%(port)d;
    location / {
      proxy_pass http://back; proxy_http_version 1.1; proxy_request_buffering off;
      proxy_max_temp_file_size 0;
      proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $passed; proxy_set_header X-Forwarded-For $remote_addr;
    }
  }
}
"""

_HAPROXY = """
global
  nbthread 1
  maxconn 4096
defaults
  mode http
  option forwardfor
  timeout connect 9s
  timeout client 60s
  timeout server 60s
  timeout tunnel 60s
frontend front
  bind %(host)s:%(port)d
  default_backend back
backend back
  http-reuse always
  server back %(host)s:%(back)d
"""

_NODE = """
const http = require('http');
const agent = new http.Agent({keepAlive: true, maxSockets: Infinity});
const target = 'http://%(host)s:%(back)d';
const proxy = require('http-proxy').createProxyServer({target, agent, xfwd: true});
const upgrades = require('http-proxy').createProxyServer({target, xfwd: true});
proxy.on('error', () => {});
upgrades.on('error', () => {});
const server = http.createServer((request, answer) => proxy.web(request, answer));
server.requestTimeout = 0;
upgrades.on('open', (socket) => socket.on('error', () => {}));
server.on('upgrade', (request, socket, head) => {
  socket.on('error', () => {});
  upgrades.ws(request, socket, head);
});
server.listen(%(port)d, '%(host)s');
"""

_GO = """
package main

import (
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
)

func main() {
	target, _ := url.Parse("http://%(host)s:%(back)d")
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	http.ListenAndServe("%(host)s:%(port)d", proxy)
}
"""


class _Place(NamedTuple):
    """Where a proxy is to run."""

    folder: Path
    port: int
    back: int

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text % {**self._asdict(), "host": HOST})
        return str(path)


def _script(kind: str) -> Callable[[_Place], Sequence[str]]:
    """This file, as one of :data:`_SITES`."""
    return lambda place: [sys.executable, __file__, kind, str(place.port), str(place.back)]


def _nginx(place: _Place) -> Sequence[str]:
    return ["nginx", "-p", str(place.folder), "-c", place.write("nginx.conf", _NGINX)]


def _haproxy(place: _Place) -> Sequence[str]:
    return ["haproxy", "-q", "-db", "-f", place.write("haproxy.cfg", _HAPROXY)]


def _node(place: _Place) -> Sequence[str]:
    return ["node", place.write("proxy.js", _NODE)]


def _go(place: _Place) -> Sequence[str]:
    program = str(place.folder / "goproxy")
    subprocess.run(["go", "build", "-o", program, place.write("proxy.go", _GO)], check=True)
    return [program]


class _Program(NamedTuple):
    command: Callable[[_Place], Sequence[str]]
    needs: str | None = None
    """The program that has to be on the path for this proxy to be compared."""


PROGRAMS = {
    OURS: _Program(_script(OURS)),
    "tunnel": _Program(_script("tunnel")),
    "twisted": _Program(_script("twisted")),
    "node": _Program(_node, "node"),
    "go": _Program(_go, "go"),
    "haproxy": _Program(_haproxy, "haproxy"),
    "nginx": _Program(_nginx, "nginx"),
}
"""All of them, by their names in the table; ``tunnel`` is this project's tunnel, for comparison."""


def why_missing(name: str) -> str | None:
    """Why a program cannot be started here; None if it can."""
    needs = PROGRAMS[name].needs
    if needs is not None and shutil.which(needs) is None:
        return f"there is no {needs}"
    if (
        name == "node"
        and subprocess.run(
            ["node", "-e", "require.resolve('http-proxy')"],
            env=_environment(),
            stderr=subprocess.DEVNULL,
        ).returncode
    ):
        return "npm install --global http-proxy, or set NODE_PATH"
    return None


def _environment() -> dict[str, str]:
    environment = {**os.environ, "GOMAXPROCS": "1", "NODE_ENV": "production"}
    if "NODE_PATH" not in environment and shutil.which("npm"):
        asked = subprocess.run(["npm", "root", "--global"], capture_output=True, text=True)
        environment["NODE_PATH"] = asked.stdout.strip()
    return environment


class Proxy:
    """
    A proxy that runs.

    :ivar port: where it listens.
    """

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.port = port
        self.process = process

    @property
    def cpu(self) -> float:
        """How many seconds of CPU time it has taken so far, user's and system's."""
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    @classmethod
    @contextmanager
    def running(cls, name: str, folder: Path, back: int, core: int) -> Iterator[Proxy]:
        """
        :param back: the port of the back end.
        :param core: where it runs.
        """
        with socket.create_server((HOST, 0)) as free:
            port = free.getsockname()[1]
        own = folder / name
        own.mkdir()
        command = PROGRAMS[name].command(_Place(own, port, back))
        with subprocess.Popen(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            # Resets are nothing to talk about here.
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        ) as process:
            try:
                _wait_for(port, process)
                yield cls(name, port, process)
            finally:
                process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if process.poll() is not None:
            break
        try:
            socket.create_connection((HOST, port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not listen")


def _our_proxy(reactor: Any, back: int) -> Site:
    return UpgradeSite(UpgradeProxy(f"http://{HOST}:{back}", reactor))


def _our_tunnel(reactor: Any, back: int) -> Site:
    root = Resource()
    passed = tunnel(TCP4ClientEndpoint(reactor, HOST, back))
    root.putChild(b"up", UpgradeResource({"websocket": passed}))
    root.putChild(b"down", root.children[b"up"])
    return UpgradeSite(root)


def _twisted_proxy(reactor: Any, back: int) -> Site:
    return Site(ReverseProxyResource(HOST, back, b""))


_SITES = {OURS: _our_proxy, "tunnel": _our_tunnel, "twisted": _twisted_proxy}


def _serve(kind: str, port: int, back: int) -> None:
    """Be one of those that are written in Python."""
    reactor: Any = import_module("twisted.internet.reactor")
    site = _SITES[kind](reactor, back)
    site.log = lambda request: None  # type: ignore[method-assign]
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    endpoint = TCP4ServerEndpoint(reactor, port, interface=HOST)
    if isinstance(site, UpgradeSite):
        reactor.callWhenRunning(UpgradeService(endpoint, site).startService)
    else:
        endpoint.listen(site)
    reactor.run()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
