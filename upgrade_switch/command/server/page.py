"""
The page at ``/`` of ``upgrade-switch serve``: what runs here, and how to try it.
"""

from __future__ import annotations

import re
import shlex
import sys
from base64 import b64encode
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path

from twisted.web.resource import Resource
from twisted.web.server import Request

from ...fields import is_host
from .auth import segments_of
from .options import ServeOptions
from .upgrades import path_shown

__all__ = ["FrontPage", "front_page"]

_PAGE = files(__package__).joinpath("front.html").read_text("utf-8")


def _hash_of(element: str) -> str:
    """What stands in the page's only element of a kind, for a Content-Security-Policy."""
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", _PAGE, re.DOTALL)
    return f"'sha256-{b64encode(sha256(content.encode('utf-8')).digest()).decode('ascii')}'"


# Whatever might get into the page could not be run.
_POLICY = (
    f"default-src 'none'; connect-src 'self'; img-src data:; style-src {_hash_of('style')}; "
    f"script-src {_hash_of('script')}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
).encode("ascii")

_LINE = '<div class="line"><pre><code>{}</code></pre></div>'

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


def front_page(options: ServeOptions, upgrades: Mapping[str, Collection[str]]) -> FrontPage:
    """
    The page of a site.

    :param upgrades: the tokens at each path.
    """
    # Of the command's own, in messages: what a browser can speak.
    is_own = not (options.tunnels or options.targets)
    echo = "/echo" if is_own and "websocket" in upgrades.get("/echo", ()) else None
    pages = [*options.classes, *options.files, *options.proxies]
    return FrontPage(
        [path_shown(path, token, options) for path, tokens in upgrades.items() for token in tokens],
        list(options.prefaces),
        [*pages, *([options.status] if options.status else [])],
        bool(options.connect_to),
        echo,
        options.status if _is_open(options.status or "", options.checkers) else None,
    )


def _is_open(path: str, guarded: Collection[str]) -> bool:
    """
    Whether those who see the page at ``/`` may see another one. Else a browser would ask for a password
    that the visitor need not have.

    :param guarded: the paths that require a password; where there are some, a status page does, too.
    """
    segments = segments_of(path)
    guards = [guard for guard in map(segments_of, guarded) if segments[: len(guard)] == guard]
    return not guarded or guards == [[]]


class FrontPage(Resource):
    """Lists what can be upgraded to, each with a line to paste into a terminal."""

    def __init__(
        self,
        upgrades: Sequence[tuple[str, str]],
        prefaces: Sequence[bytes] = (),
        pages: Sequence[str] = (),
        is_proxy: bool = False,
        echo: str | None = None,
        status: str | None = None,
    ) -> None:
        """
        :param upgrades: paths and the tokens there.
        :param prefaces: what a connection may begin with in place of a request.
        :param pages: paths of what is for a browser.
        :param is_proxy: whether the server takes CONNECT.
        :param echo: the path of a WebSocket that sends back what it gets in binary messages, for
            visitors to try; None: none.
        :param status: the path of a status page, for a list of what is switched; None: none.
        """
        super().__init__()
        self._upgrades = upgrades
        self._prefaces = prefaces
        self._pages = pages
        self._is_proxy = is_proxy
        self._echo = echo
        self._status = status

    def render_GET(self, request: Request) -> bytes:
        origin = _origin(request)
        rows = "\n".join(
            f"<tr><td><code>{escape(path)}</code></td><td><code>{escape(token)}</code></td></tr>"
            for path, token in self._upgrades
        )
        commands = "\n".join(
            _LINE.format(escape(_connect_line(origin + path, token)))
            for path, token in self._upgrades
            # The page itself is what speaks to that.
            if (path, token) != (self._echo, "websocket")
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
        # Only those who may go there learn where clients may go.
        proxy = _PROXY.format(origin=escape(origin)) if self._is_proxy else ""
        path, token = self._upgrades[0]
        by_hand = _BY_HAND.format(path=path, token=token, host=origin.partition("//")[2])
        data = {"origin": origin, "echo": self._echo, "status": self._status}
        values = {
            "data": " ".join(f'data-{key}="{escape(value)}"' for key, value in data.items() if value),
            "rows": rows,
            "prefaces": prefaces,
            "pages": pages,
            "proxy": proxy,
            "commands": commands,
            "by_hand": escape(by_hand),
        }
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        request.setHeader(b"content-security-policy", _POLICY)
        return re.sub(r"\{\{(\w+)\}\}", lambda name: values[name[1]], _PAGE).encode("utf-8")


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
