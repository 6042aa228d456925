"""
The reverse proxies that ``proxy.py`` compares: how each is started, in front of which back end.

Each is one process on one core, passes upgrades, keeps its connections to the back end, and writes no
access log.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from figures import called
from peers import Peer
from peers.fronting import PATH
from processes import HOST, Server, listening
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.logger import globalLogBeginner
from twisted.protocols.portforward import ProxyFactory
from twisted.web.proxy import ReverseProxyResource
from twisted.web.resource import Resource
from twisted.web.server import Site

from upgrade_switch import UpgradeResource, UpgradeService, UpgradeSite
from upgrade_switch.protocols import tunnel
from upgrade_switch.proxy import UpgradeProxy

__all__ = ["OURS", "PROGRAMS", "running", "title_of", "why_missing"]

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
    """This file, as one of :data:`_FACTORIES`."""
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
    title: str
    command: Callable[[_Place], Sequence[str]]
    needs: str | None = None
    """The program that has to be on the path for this proxy to be compared."""
    package: str = "upgrade_switch"
    """Whose version is its own, if it is not the program's."""


PROGRAMS = {
    OURS: _Program("UpgradeProxy", _script(OURS)),
    "tunnel": _Program("tunnel on an UpgradeSite", _script("tunnel")),
    "raw": _Program("twisted.protocols.portforward, without HTTP", _script("raw"), package="Twisted"),
    "twisted": _Program("twisted.web's ReverseProxyResource", _script("twisted"), package="Twisted"),
    "node": _Program("Node http-proxy", _node, "node"),
    "go": _Program("Go httputil.ReverseProxy", _go, "go"),
    "haproxy": _Program("haproxy", _haproxy, "haproxy"),
    "nginx": _Program("nginx", _nginx, "nginx"),
}
"""All of them, by their names in the table; ``tunnel`` is this project's tunnel."""


def title_of(name: str) -> str:
    """What a proxy is called in texts."""
    program = PROGRAMS[name]
    return called(Peer(name, program.title, "", (), [program.package], program.needs))


def why_missing(name: str) -> str | None:
    """Why a program cannot be started here; None if it can."""
    needs = PROGRAMS[name].needs
    if needs is not None and shutil.which(needs, path=PATH) is None:
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
    environment = {**os.environ, "PATH": PATH, "GOMAXPROCS": "1", "NODE_ENV": "production"}
    if "NODE_PATH" not in environment and shutil.which("npm"):
        asked = subprocess.run(["npm", "root", "--global"], capture_output=True, text=True)
        environment["NODE_PATH"] = asked.stdout.strip()
    return environment


@contextmanager
def running(name: str, folder: Path, back: int, core: int) -> Iterator[Server]:
    """
    A proxy, while it runs.

    :param back: the port of the back end.
    :param core: where it runs.
    """
    own = folder / name
    own.mkdir()
    make = PROGRAMS[name].command
    with listening(name, lambda port: make(_Place(own, port, back)), core, _environment()) as server:
        yield server


def _our_proxy(reactor: Any, back: int) -> Site:
    return UpgradeSite(UpgradeProxy(f"http://{HOST}:{back}", reactor))


def _our_tunnel(reactor: Any, back: int) -> Site:
    root = Resource()
    passed = tunnel(TCP4ClientEndpoint(reactor, HOST, back))
    for path in (b"up", b"down", b"echo"):
        root.putChild(path, UpgradeResource({"websocket": passed}))
    return UpgradeSite(root)


def _twisted_proxy(reactor: Any, back: int) -> Site:
    return Site(ReverseProxyResource(HOST, back, b""))


def _raw(reactor: Any, back: int) -> ProxyFactory:
    return ProxyFactory(HOST, back)


_FACTORIES: dict[str, Callable[[Any, int], Any]] = {
    OURS: _our_proxy,
    "tunnel": _our_tunnel,
    "raw": _raw,
    "twisted": _twisted_proxy,
}


def _serve(kind: str, port: int, back: int) -> None:
    """Be one of those that are written in Python."""
    reactor: Any = import_module("twisted.internet.reactor")
    factory = _FACTORIES[kind](reactor, back)
    if isinstance(factory, Site):
        factory.log = lambda request: None  # type: ignore[method-assign]
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    endpoint = TCP4ServerEndpoint(reactor, port, interface=HOST)
    if isinstance(factory, UpgradeSite):
        reactor.callWhenRunning(UpgradeService(endpoint, factory).startService)
    else:
        endpoint.listen(factory)
    reactor.run()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
