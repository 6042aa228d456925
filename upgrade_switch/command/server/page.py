"""
The page at ``/`` of ``upgrade-switch serve``: what runs here, and how to try it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from twisted.web.resource import Resource
from twisted.web.server import Request

from ...fields import is_host

__all__ = ["FrontPage"]

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>upgrade_switch</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --soft: #8881; }}
body {{ font: 1rem/1.55 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 2rem 1rem; }}
h1 {{ font-size: 1.6rem; margin: 0 0 .3rem; }}
h2 {{ font-size: 1.05rem; margin: 2rem 0 .5rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .4rem .6rem; border-bottom: 1px solid var(--line); }}
pre {{ background: var(--soft); border: 1px solid var(--line); border-radius: .4rem;
      padding: .7rem .8rem; overflow-x: auto; }}
code {{ font: .9rem/1.5 ui-monospace, monospace; }}
</style>
</head>
<body>
<h1>upgrade_switch</h1>
<p>This is an ordinary web server. At the addresses below it also leaves HTTP: a client that asks
for it in the standard way (<code>Upgrade:</code>, RFC 9110 §7.8) gets
<code>101 Switching Protocols</code>, and from the next byte on both speak something else.</p>
<h2>What is here</h2>
<table>
<tr><th>path</th><th>token</th></tr>
{rows}
</table>
{prefaces}
{pages}
{proxy}
<h2>Try it</h2>
<p>In a terminal on this machine; what you type goes through the switched connection, Ctrl-D
ends it:</p>
{commands}
<p>What goes over the wire, the client's lines and the server's:</p>
<pre>{by_hand}</pre>
</body>
</html>
"""


_PROXY = """\
<p>This server is a proxy, too, for the destinations that it allows: clients get there by
<code>CONNECT</code> (RFC 9110 §9.3.6), such as
<code>curl --proxytunnel --proxy {origin} URL</code>.</p>
"""

_BY_HAND = """\
> GET {path} HTTP/1.1
> Host: {host}
> Connection: Upgrade
> Upgrade: {token}
>
< HTTP/1.1 101 Switching Protocols
< Upgrade: {token}
< Connection: Upgrade
<
"""


class FrontPage(Resource):
    """Lists what can be upgraded to, each with a line to paste into a terminal."""

    def __init__(
        self,
        upgrades: Sequence[tuple[str, str]],
        prefaces: Sequence[bytes] = (),
        pages: Sequence[str] = (),
        is_proxy: bool = False,
    ) -> None:
        """
        :param upgrades: paths and the tokens there.
        :param prefaces: what a connection may begin with in place of a request.
        :param pages: paths of what is for a browser.
        :param is_proxy: whether the server takes CONNECT.
        """
        super().__init__()
        self._upgrades = upgrades
        self._prefaces = prefaces
        self._pages = pages
        self._is_proxy = is_proxy

    def render_GET(self, request: Request) -> bytes:
        origin = _origin(request)
        rows = "\n".join(
            f"<tr><td><code>{escape(path)}</code></td><td><code>{escape(token)}</code></td></tr>"
            for path, token in self._upgrades
        )
        commands = "\n".join(
            f"<pre><code>{escape(_connect_line(origin + path, token))}</code></pre>"
            for path, token in self._upgrades
        )
        prefaces = ", ".join(
            f"<code>{escape(repr(preface)[2:-1])}</code>" for preface in self._prefaces
        )
        if prefaces:
            prefaces = f"<p>Connections that begin with {prefaces} are no HTTP at all.</p>"
        pages = ", ".join(
            f'<a href="{escape(page)}"><code>{escape(page)}</code></a>' for page in self._pages
        )
        if pages:
            pages = f"<p>For a browser: {pages}.</p>"
        # Where clients may go is for those to know who may go there.
        proxy = _PROXY.format(origin=escape(origin)) if self._is_proxy else ""
        path, token = self._upgrades[0]
        by_hand = _BY_HAND.format(path=path, token=token, host=origin.partition("//")[2])
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        page = _PAGE.format(
            rows=rows,
            prefaces=prefaces,
            pages=pages,
            proxy=proxy,
            commands=commands,
            by_hand=escape(by_hand),
        )
        return page.encode("utf-8")


def _origin(request: Request) -> str:
    """The scheme and authority that the page was asked for at."""
    host = request.getHeader(b"host") or b""
    authority = host.decode("ascii") if is_host(host) else "localhost"
    return f"{'https' if request.isSecure() else 'http'}://{authority}"


def _connect_line(url: str, token: str) -> str:
    """
    A line for a shell: with the whole path of the program, which stands in a virtual environment
    that need not be on anybody's PATH.
    """
    program = Path(sys.argv[0])
    name = str(program.absolute()) if program.name == "upgrade-switch" else "upgrade-switch"
    return shlex.join([name, "connect", url, token])
