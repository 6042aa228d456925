"""
``upgrade-switch serve --proxy``: other servers behind this one, beside everything else.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock
from twisted.python.usage import UsageError
from twisted.web.resource import getChildForRequest
from twisted.web.test.requesthelper import DummyRequest

from tests.kit.certificate import CERTIFICATE_PEM, KEY_PEM
from tests.kit.commands import LOCAL, PATIENCE, echo, fails, listening, read_until, run, serving
from tests.kit.harness import field, status, upgrade_head
from tests.kit.operating import answer, body_of, connected, get, operated, upgraded
from upgrade_switch.command.server.options import ServeOptions
from upgrade_switch.command.server.service import build_server
from upgrade_switch.command.server.tree import build_proxies, build_tree
from upgrade_switch.observe import Status, StatusResource
from upgrade_switch.proxy import UpgradeProxy

OPS = b"Authorization: Basic " + b64encode(b"ops:secret") + b"\r\n"

MODULE = '''
import json
from twisted.web.resource import Resource


class Shown(Resource):
    """Answers with what it was asked."""

    isLeaf = True

    def render(self, request):
        fields = {name.decode().lower(): [value.decode() for value in values]
                  for name, values in request.requestHeaders.getAllRawHeaders()}
        request.setHeader("content-type", "application/json")
        return json.dumps({"uri": request.uri.decode(), "fields": fields,
                           "body": request.content.read().decode()}).encode()
'''


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a back end: it shows what it is asked at ``/shown``, and echoes at ``/echo``."""
    folder = tmp_path_factory.mktemp("behind")
    (folder / "things.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=":")
        with serving("--class", "/shown things.Shown", "--drain", "0") as server:
            yield server.url.rstrip("/")


@pytest.fixture(scope="module")
def front(behind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a back end at its root, and other things beside it."""
    folder = tmp_path_factory.mktemp("front")
    (folder / "file.txt").write_text("a file")
    with listening(echo) as port:
        options = [
            *("--proxy", f"/ {behind} tokens=echo"),
            *("--proxy", f"/shown/private/ {behind}/shown/p"),
            *("--proxy", f"/websockets {behind}"),
            *("--files", f"/shown/files {folder}"),
            *("--tunnel", f"/ssh ssh tcp:127.0.0.1:{port}"),
            *("--auth", "/shown/private memory:ops:secret"),
            *("--auth", "/shown/half memory:ops:secret"),
            *("--auth", "/status memory:ops:secret"),
            *("--status", "/status"),
            *("--drain", "0"),
            # An upgrade that a back end wants and that is not passed on is a line in the log.
            *("--log-format", "none"),
        ]
        with serving(*options) as server:
            yield server.url
            with upgraded(server.url, "/ssh", "ssh") as client:
                client.sendall(b"hello")
                assert read_until(client, b"hello") == b"hello"


def shown(url: str, target: str, fields: bytes = b"") -> Any:
    """What the back end has been asked."""
    code, got = get(url, target, fields)
    assert code == 200, got
    return json.loads(body_of(got))


def test_pages(front: str) -> None:
    """What the back end has is below the path; the client's own Host and target go on to it."""
    asked = shown(front, "/shown/x%2Fy//z?q")
    assert asked["uri"] == "/shown/x%2Fy//z?q"
    assert asked["fields"]["host"] == ["localhost"]
    assert get(front, "/nowhere")[0] == 404
    code, got = get(front)
    assert (code, b"<title>upgrade_switch</title>" in got) == (200, True)


def test_beside(front: str) -> None:
    """Files, the status page and tunnels at longer paths are there, and the rest is the back end's."""
    assert body_of(get(front, "/shown/files/file.txt")[1]) == b"a file"
    assert get(front, "/shown/files/nowhere")[0] == 404
    assert shown(front, "/shown/filesystem")["uri"] == "/shown/filesystem"
    assert get(front, "/status", OPS)[0] == 200
    code, got = get(front, "/ssh")
    assert (code, field(got, b"upgrade")) == (426, b"ssh")
    assert shown(front, "/shown/private/x", OPS)["uri"] == "/shown/p/x"


def test_upgrades(front: str) -> None:
    """The upgrades that were named pass, and no others."""
    with upgraded(front, "/echo", "echo") as client:
        client.sendall(b"hello")
        assert read_until(client, b"hello") == b"hello"
    with connected(front) as client:
        client.sendall(upgrade_head(b"echo", path=b"/websockets/echo"))
        # The back end has the token, but this way to it has not.
        head = read_until(client, b"\r\n\r\n")
        assert (status(head), field(head, b"upgrade")) == (426, b"websocket")


def test_password_is_not_passed_on(front: str) -> None:
    """Where ``--auth`` asks for a password, the back end gets no Authorization; elsewhere it does."""
    for target in ("/shown/private", "/shown/private/x", "/shown/half", "/shown/half/x"):
        assert get(front, target)[0] == 401
        assert "authorization" not in shown(front, target, OPS)["fields"]
    bearer = b"Authorization: Bearer of-its-own\r\n"
    assert shown(front, "/shown", bearer)["fields"]["authorization"] == ["Bearer of-its-own"]


@pytest.mark.parametrize(
    "target",
    ["/shown//half/x", "/shown/./half", "/shown/%68alf", "/shown%2Fhalf", "/shown/half;v=1/x",
     "/shown;a/half", "/shown\\half", "/shown/x/..;/half", "/shown/x/..%2Fhalf", "/shown/x/..%3b/half",
     "/shown/x;/../half", "/shown/half%5Cx", "/shown/half%3bx"],
)  # fmt: skip
def test_other_spellings(front: str, target: str) -> None:
    """No spelling that a back end might read as a path with a password leads around it."""
    assert get(front, target)[0] in (400, 401, 404)


def test_upload_behind_a_password() -> None:
    """A request's body goes on while it comes, also where a password is asked for."""
    begun = threading.Event()

    def take(client: socket.socket) -> None:
        got = read_until(client, b"first part")
        begun.set()
        got += read_until(client, b"the end")
        assert b"uthorization" not in got
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\ntaken")

    with listening(take) as port:
        options = ["--proxy", f"/up http://127.0.0.1:{port}", "--auth", "/up memory:ops:secret"]
        with serving(*options) as server, connected(server.url) as client:
            head = b"POST /up/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 17\r\n"
            client.sendall(head + OPS + b"\r\nfirst part")
            assert begun.wait(PATIENCE)
            client.sendall(b"the end")
            assert read_until(client, b"taken").startswith(b"HTTP/1.1 200 OK\r\n")


def test_limits(behind: str) -> None:
    """The limits of the site hold for what switches at a back end, and the proxy's own for uploads."""
    options = ["--proxy", f"/ {behind} tokens=echo max-body=3", "--max-switched", "1"]
    with serving(*options, "--drain", "0") as server, upgraded(server.url, "/echo", "echo"):
        with connected(server.url) as client:
            client.sendall(upgrade_head(path=b"/echo"))
            assert status(read_until(client, b"\r\n\r\n")) == 503
        post = b"POST /shown HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: "
        assert answer(server.url, post + b"4\r\n\r\nbody")[0] == 413
        code, got = answer(server.url, post + b"3\r\n\r\nbod")
        assert (code, json.loads(body_of(got))["body"]) == (200, "bod")


def test_https_and_sockets(tmp_path: Path) -> None:
    """Back ends may speak TLS, with a certificate of the file that is named, or be at a UNIX socket."""
    key, chain, path = tmp_path / "key.pem", tmp_path / "cert.pem", tmp_path / "socket"
    key.write_bytes(KEY_PEM)
    chain.write_bytes(CERTIFICATE_PEM)
    listen = (f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={chain}", f"unix:{path}")
    with serving(listen=listen) as back_end:
        (https,) = (one for one in back_end.addresses if one.startswith("https:"))
        options = [
            *("--proxy", f"/known {https} ca={chain}"),
            *("--proxy", f"/unknown {https}"),
            *("--proxy", f"/socket unix:{path} tokens=echo"),
        ]
        with serving(*options, "--log-format", "none") as server:
            for target, code in (("/known/", 200), ("/socket/", 200), ("/unknown/", 502)):
                assert get(server.url, target)[0] == code
            upgraded(server.url, "/socket/echo", "echo").close()
            upgraded(server.url, "/echo", "echo").close()


def test_status_and_metrics(behind: str) -> None:
    """The status page and the metrics show each back end, and how it does."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{taken.getsockname()[1]}"
        proxies = ["--proxy", f"/app {behind} {behind}/shown", "--proxy", f"/away {away}"]
        with serving(*proxies, "--status", "/status", "--log-format", "none") as server:
            for target, code in (("/app/shown", 200), ("/away", 502), ("/away", 502)):
                assert get(server.url, target)[0] == code
            back_ends = json.loads(body_of(get(server.url, "/status/json")[1]))["back_ends"]
            assert [(one["path"], one["url"], one["requests"]) for one in back_ends] == [
                ("/app", behind, 1),
                ("/app", f"{behind}/shown", 0),
                ("/away", away, 2),
            ]
            assert [one["errors"] for one in back_ends] == [0, 0, 2]
            assert [one["latency"] is None for one in back_ends] == [False, True, True]
            metrics = get(server.url, "/status/metrics")[1].decode()
            for line in (
                f'requests_total{{path="/away",url="{away}"}} 2.0',
                f'errors_total{{path="/away",url="{away}"}} 2.0',
                f'state{{path="/app",state="up",url="{behind}"}} 1.0',
            ):
                assert f"\nupgrade_switch_back_end_{line}\n" in metrics


def test_begins_and_ends_with_the_service() -> None:
    """Back ends are asked how they are from the start of the server to its end."""
    reactor: Any = MemoryReactorClock()
    options = options_of("--proxy", "/app http://127.0.0.1:1 health=/health", "--drain", "0")
    server = build_server(reactor, options)
    assert not reactor.tcpClients
    server.startService()
    reactor.run()
    reactor.advance(4.5)
    reactor.advance(1)
    assert [client[:2] for client in reactor.tcpClients] == [("127.0.0.1", 1)] * 2
    stopped = server.stopService()
    reactor.advance(1)
    assert stopped.called
    reactor.advance(60)
    assert len(reactor.tcpClients) == 2
    assert not reactor.getDelayedCalls()


def options_of(*arguments: str) -> ServeOptions:
    options = ServeOptions()
    options.parseOptions(arguments)
    return options


def tree_of(reactor: Any, options: ServeOptions) -> Any:
    """The resource tree of a server with these options."""
    return build_tree(reactor, options, Status(reactor), build_proxies(reactor, options))


def path_of(options: ServeOptions, target: str) -> tuple[object, list[bytes]]:
    """Which resource a path leads to, and the segments that lead there."""
    reactor: Any = MemoryReactorClock()
    root = tree_of(reactor, options)
    request: Any = DummyRequest(target[1:].encode().split(b"/"))
    request.uri, request.authenticated_user = target.encode(), None
    return getChildForRequest(root, request), request.prepath


@pytest.mark.parametrize("is_reversed", [False, True])
def test_longest_path_wins(is_reversed: bool) -> None:
    """Of all paths, the longest that matches counts, in whatever order they are given."""
    given = [
        ("--proxy", "/ http://a"),
        ("--proxy", "/a/ http://b"),
        ("--proxy", "/a/b/c http://c"),
        ("--tunnel", "/a/b x tcp:127.0.0.1:1"),
        ("--status", "/a/status"),
    ]
    options = options_of(*(word for pair in given[:: -1 if is_reversed else 1] for word in pair))
    for target, url, prepath in (
        ("/", "http://a", []),
        ("/ab", "http://a", []),
        ("//a", "http://a", []),
        ("/a", "http://b", [b"a"]),
        ("/a/", "http://b", [b"a"]),
        ("/a/bb", "http://b", [b"a"]),
        ("/a/b/c", "http://c", [b"a", b"b", b"c"]),
        ("/a/b/c/d", "http://c", [b"a", b"b", b"c"]),
    ):
        resource, segments = path_of(options, target)
        assert isinstance(resource, UpgradeProxy), target
        assert ([one.url for one in resource.back_ends], segments) == ([url], prepath), target
    assert not isinstance(path_of(options, "/a/b/d")[0], UpgradeProxy)
    assert isinstance(path_of(options, "/a/status")[0], StatusResource)


def test_words_and_table(tmp_path: Path) -> None:
    """A table of the file says what the words of the command line say, and adds to them."""
    words = options_of(
        "--proxy",
        "/app/ http://a:1/x  unix:/run/a.sock tokens=websocket,chat preserve-host=false "
        "rewrite-location=false rewrite-cookies=true trusted=10.0.0.0/8,unix lenient=true "
        "connect-timeout=1.5 response-timeout=0 idle-timeout=7 max-body=1000 sticky=address "
        "health=/health?a=b ca=ca.pem",
    )
    (tmp_path / "serve.toml").write_text("""
        proxy = ["/x http://b max-body=0", {path = "/y", url = "http://c"}]
    """)
    (tmp_path / "tables.toml").write_text("""
        [[proxy]]
        path = "/app"
        url = ["http://a:1/x", "unix:/run/a.sock"]
        tokens = ["websocket", "chat"]
        preserve-host = false
        rewrite-location = false
        rewrite-cookies = true
        trusted = ["10.0.0.0/8", "unix"]
        lenient = true
        connect-timeout = 1.5
        response-timeout = 0
        idle-timeout = 7
        max-body = 1000
        sticky = "address"
        health = "/health?a=b"
        ca = "ca.pem"
    """)
    tables = options_of("--config", f"{tmp_path}/tables.toml", "--proxy", "/b http://b tokens=")
    assert tables.proxies["/app"] == words.proxies["/app"]
    assert tables.proxies["/b"].settings == {"tokens": ()}
    both = options_of("--config", f"{tmp_path}/serve.toml").proxies
    assert both["/x"].settings == {"max_body": None}
    assert both["/y"].urls == ["http://c"]


@pytest.mark.parametrize("kind", ["serve", "twist"])
def test_config(kind: str, behind: str, tmp_path: Path) -> None:
    """Both servers read proxies from the file, and serve them."""
    (tmp_path / "serve.toml").write_text(f"""
        drain = 0
        [proxy]
        path = "/"
        url = "{behind}"
        tokens = "echo"
        preserve-host = false
    """)
    with operated(kind, "--config", "serve.toml", cwd=tmp_path) as server:
        host = behind.partition("//")[2]
        assert shown(server.url, "/shown")["fields"]["host"] == [host]
        upgraded(server.url, "/echo", "echo").close()
        server.terminate()
        server.finishes()


USAGE = [
    ("", "--proxy needs"),
    ("/app", "--proxy needs"),
    ("http://a:hunter2@b", "--proxy needs"),
    ("http://a:hunter2@b http://b", "--proxy needs"),
    ("/app max-body=1", "--proxy needs"),
    ("/a?b http://a", "--proxy needs"),
    ("/app a", "not an http or https URL: 'a'"),
    ("/app ftp://a", "not an http or https URL: 'ftp://a'"),
    ("/app http://", "not an http or https URL"),
    ("/app http://a?q", "no query"),
    ("/app http://a:0", "port"),
    ("/app unix:socket", "not the URL of a UNIX socket"),
    ("/app http://a http://a", "none twice"),
    ("/app http://a:hunter2@b", "no user and no password"),
    ("/app http://a a:hunter2@b", "no user and no password"),
    ("/app http://a:hunter2 more@b", "no user and no password"),
    ("/app http://a:hunter2/more@b", "may have a password in it"),
    ("/app http://a tokens=a,,b/", "--proxy /app: "),
    ("/app http://a token=x", "no option 'token'; available: tokens, trusted, preserve-host"),
    ("/app http://a lenient=true lenient=true", "lenient is given twice"),
    ("/app http://a lenient=yes", "lenient is true or false, not 'yes'"),
    ("/app http://a max-body=1.5", "max-body is a whole number of bytes, not '1.5'"),
    ("/app http://a max-body=-1", "max-body is a whole number of bytes"),
    ("/app http://a idle-timeout=soon", "idle-timeout is a number of seconds, not 'soon'"),
    ("/app http://a response-timeout=inf", "response-timeout is a number of seconds"),
    ("/app http://a connect-timeout=0", "connect-timeout must be more than 0"),
    ("/app http://a trusted=x", "--proxy /app: "),
    ("/app http://a sticky=", "sticky is empty"),
    ("/app http://a sticky=a;b", "sticky is 'address' or the name of a cookie"),
    ("/app http://a health=x", "health"),
    ("/app https://a ca=/no/such/file", "--proxy /app: ca /no/such/file: No such file"),
    ("/app https://a ca=/dev/null", "no certificates in PEM"),
]


@pytest.mark.parametrize(("value", "said"), USAGE)
def test_wrong_values(value: str, said: str) -> None:
    """A bad value is a usage error that says what is wrong, and tells no password."""
    reactor: Any = MemoryReactorClock()
    with pytest.raises(UsageError) as raised:
        tree_of(reactor, options_of("--proxy", value))
    line = str(raised.value)
    assert said in line
    assert "--proxy" in line
    assert "hunter2" not in line
    assert "\n" not in line


def test_exit_code(tmp_path: Path) -> None:
    """It is one line and exit code 2: while the options are read, and when the server is made."""
    for value, said in (("/a http://a:hunter2@b", "no user and no password"), ("/a b", "URL: 'b'")):
        assert said in fails(2, "serve", "--listen", LOCAL, "--proxy", value)
    (tmp_path / "serve.toml").write_text('proxy = "/app http://a:hunter2@b"')
    line = fails(2, "serve", "--listen", LOCAL, "--config", f"{tmp_path}/serve.toml")
    assert "no user and no password" in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("proxy = 1", "proxy must be a list of strings or tables"),
        ("proxy = [['/a', 'http://a:hunter2@b']]", "proxy must be a list of strings or tables"),
        ("[proxy]\nurl = 'http://a:hunter2@b'", "path"),
        ("[proxy]\npath = 'x'\nurl = 'http://a'", "path"),
        ("[proxy]\npath = '/x'", "the proxy at /x needs url"),
        ("[proxy]\npath = '/x'\nurl = [1]", "the proxy at /x needs url"),
        ("[proxy]\npath = '/x'\nurl = []", "the proxy at /x needs url"),
        ("[proxy]\npath = '/x'\nurl = 'http://a:hunter2@b'", "no user and no password"),
        ("[proxy]\npath = '/x'\nurl = 'http://a'\nuser = 'hunter2'", "no option 'user'"),
        ("[proxy]\npath = '/x'\nurl = 'http://a'\nlenient = 'true'", "lenient has a value"),
        ("[proxy]\npath = '/x'\nurl = 'http://a'\nlenient = 1", "lenient has a value"),
        ("[proxy]\npath = '/x'\nurl = 'http://a'\nmax-body = true", "max-body has a value"),
        ("[proxy]\npath = '/x'\nurl = 'http://a'\nmax-body = -1", "max-body is a whole number"),
        ("[proxy]\npath = '/x'\nurl = 'http://a'\nsticky = ['hunter2']", "sticky has a value"),
        ("[proxy]\npath = '/x'\nurl = 'http://a'\ntokens = [1]", "tokens has a value"),
        ("[[proxy]]\npath = '/x'\nurl = 'http://a'\n" * 2, "--proxy: /x is given twice"),
    ],
)  # fmt: skip
def test_wrong_tables(text: str, said: str, tmp_path: Path) -> None:
    """So is what is wrong in a table."""
    (tmp_path / "serve.toml").write_text(text)
    with pytest.raises(UsageError) as raised:
        options_of("--config", f"{tmp_path}/serve.toml")
    assert said in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [
        ["--proxy", "/a http://a", "--tunnel", "/a x tcp:127.0.0.1:1"],
        ["--proxy", "/a http://a", "--status", "/a"],
        ["--proxy", "/ http://a", "--files", "/ ."],
        ["--proxy", "/ http://a", "--tunnel", "/ x tcp:127.0.0.1:1"],
        ["--proxy", "/echo http://a"],
    ],
    ids=" ".join,
)
def test_two_things_at_one_path(options: list[str]) -> None:
    """Two things at one path are a mistake."""
    reactor: Any = MemoryReactorClock()
    with pytest.raises(UsageError, match=r"--proxy: .* is taken by another resource"):
        tree_of(reactor, options_of(*options))


def test_auth_guards_a_proxy() -> None:
    """A path of ``--auth`` may be at, above or below that of a proxy."""
    reactor: Any = MemoryReactorClock()
    for path, is_right in (("/app", True), ("/app/x", True), ("/", True), ("/ap", False)):
        arguments = ["--tunnel", "/t x tcp:127.0.0.1:1", "--auth", f"{path} memory:a:b"]
        options = options_of("--proxy", "/app http://a", *arguments)
        if is_right:
            tree_of(reactor, options)
        else:
            with pytest.raises(UsageError, match="no resource at /ap; available: /t, /app"):
                tree_of(reactor, options)


def test_page_has_a_link() -> None:
    """The front page has a link to what is proxied."""
    with serving("--proxy", "/app http://127.0.0.1:1") as server:
        assert b'href="/app"' in get(server.url)[1]


def test_help() -> None:
    """``--help`` explains the option."""
    done = run("serve", "--help")
    assert b"--proxy=" in done.stdout
    assert b"'PATH URL [URL...] [NAME=VALUE...]'" in b" ".join(done.stdout.split())


def test_log() -> None:
    """What a proxy says of back ends and of cut-off answers is logged, others' details are not."""
    code = (
        "from twisted.logger import Logger, LogLevel\n"
        "from upgrade_switch.command.listening import begin_logging\n"
        "begin_logging(LogLevel.warn)\n"
        "Logger('upgrade_switch.proxy.health').info('up again')\n"
        "Logger('upgrade_switch.splicing').info('nothing new')\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, timeout=PATIENCE, capture_output=True)
    assert b"up again" in done.stderr
    assert b"nothing new" not in done.stderr


def test_without_a_proxy() -> None:
    """A server without a proxy does not import one, which would make it start more slowly."""
    code = (
        "import sys, upgrade_switch.command.server.service as service\n"
        "from twisted.internet.testing import MemoryReactorClock\n"
        "options = service.Options()\n"
        "options.parseOptions(['--status', '/status'])\n"
        "service.build_server(MemoryReactorClock(), options)\n"
        "sys.exit('upgrade_switch.proxy' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
