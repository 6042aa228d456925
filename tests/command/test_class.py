"""
``upgrade-switch serve --class``: your own resources, by the names of their classes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.kit.commands import LOCAL, PATIENCE, fails, run, serving

MODULE = """
from twisted.web.resource import Resource
from upgrade_switch import UpgradeResource
from upgrade_switch.command.server.echo import Echo
from twisted.internet.protocol import Factory


class Hello(Resource):
    isLeaf = True

    def render_GET(self, request):
        return b"hello from " + b"/".join(request.prepath) + b", " + b"/".join(request.postpath)


class Upgrading(UpgradeResource):
    def __init__(self):
        super().__init__({"mine": Factory.forProtocol(Echo)})


class Failing(Resource):
    def __init__(self):
        raise RuntimeError("not\\ntoday")


class Demanding(Resource):
    def __init__(self, argument):
        super().__init__()


class NoResource:
    pass


something = 7
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules that Python finds: ``things`` with resources, ``broken`` and ``needy`` that fail."""
    (tmp_path / "things.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("this is no Python\n")
    (tmp_path / "needy.py").write_text("import there_is_no_such_module\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def get(url: str) -> str:
    with urlopen(url, timeout=PATIENCE) as page:
        text: str = page.read().decode()
    return text


@pytest.fixture
def url() -> Iterator[str]:
    """A server with some classes."""
    options = ["--class", "/hello things.Hello", "--class", "/a/b%20c/ things.Hello"]
    with serving(*options, "--class", "/up things.Upgrading") as server:
        yield server.url


def test_resource(url: str) -> None:
    """The resource answers at its path and below it; a path may have directories and escapes."""
    assert get(f"{url}hello") == "hello from hello, "
    assert get(f"{url}hello/x/y") == "hello from hello, x/y"
    assert get(f"{url}a/b%20c/d") == "hello from a/b c, d"


def test_switches(url: str) -> None:
    """Its upgrades are like any others."""
    done = run("connect", f"{url}up", "mine", input=b"hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")


def test_page(url: str) -> None:
    """The front page has links to them; the echo of the default is there as well."""
    page = get(url)
    for path in ("/hello", "/a/b%20c", "/up"):
        assert f'<a href="{path}"><code>{path}</code></a>' in page
    assert "<code>/echo</code>" in page
    done = run("connect", f"{url}echo", "echo", input=b"hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")


def test_escaped_on_the_page() -> None:
    """A path is text on the page, whatever is in it."""
    with serving("--class", "/<b>\"'& things.Hello") as server:
        page = get(server.url)
    assert "/<b>" not in page
    assert "/&lt;b&gt;&quot;&#x27;&amp;" in page


def test_with_tunnel() -> None:
    """A tunnel beside it takes the echo's place, not its."""
    with serving("--class", "/hello things.Hello", "--tunnel", "/ssh ssh tcp:127.0.0.1:1") as server:
        assert get(f"{server.url}hello") == "hello from hello, "
        assert "/echo" not in get(server.url)


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "/hello",
        "things.Hello",
        "hello things.Hello",
        "/ things.Hello",
        "/// things.Hello",
        "/a?b things.Hello",
        "/a#b things.Hello",
        "/hello things.Hello more",
        "/hello things",
        "/hello things.",
        "/hello .Hello",
        "/hello things..Hello",
        "/hello things.Missing",
        "/hello no_such_module",
        "/hello no_such_module.Hello",
        "/hello broken.Hello",
        "/hello needy.Hello",
        "/hello things.something",
        "/hello things.NoResource",
        "/hello things.Demanding",
        "/hello things.Failing",
    ],
)
def test_wrong_values(value: str) -> None:
    """Exit code 2, and one line that says so, and which option it is about."""
    assert "--class" in fails(2, "serve", "--listen", LOCAL, "--class", value)


def test_reason() -> None:
    """What the class or its module raises is in the line."""
    line = fails(2, "serve", "--listen", LOCAL, "--class", "/hello things.Failing")
    assert "things.Failing: RuntimeError: not today" in line
    line = fails(2, "serve", "--listen", LOCAL, "--class", "/hello needy.Hello")
    assert "there_is_no_such_module" in line


@pytest.mark.parametrize(
    "options",
    [
        ["--class", "/a things.Hello", "--class", "/a/ things.Hello"],
        ["--class", "/a things.Hello", "--class", "/a/b things.Hello"],
        ["--class", "/a/b things.Hello", "--class", "/a things.Hello"],
        ["--class", "/a things.Hello", "--tunnel", "/a echo tcp:127.0.0.1:1"],
        ["--class", "/a things.Hello", "--tunnel", "/a/b echo tcp:127.0.0.1:1"],
        ["--class", "/a/b things.Hello", "--tunnel", "/a echo tcp:127.0.0.1:1"],
        ["--class", "/echo things.Hello"],
        ["--class", "/a%62 things.Hello", "--class", "/ab things.Hello"],
    ],
    ids=" ".join,
)
def test_paths_in_one_another(options: list[str]) -> None:
    """Two things at one path, or one below another, are refused: one of them could not be reached."""
    fails(2, "serve", "--listen", LOCAL, *options)


def test_make_serve() -> None:
    """``make serve`` has the chat."""
    makefile = Path(__file__).parent.parent.parent / "Makefile"
    # It may be make that runs the tests: of that, this one is to know nothing.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", "-n", "-f", str(makefile), "serve"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    line = done.stdout.splitlines()[-1]
    assert line.startswith("PYTHONPATH=examples ")
    assert line.endswith("upgrade-switch serve --class '/chat chat.Chat'")
