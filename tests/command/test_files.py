"""
``upgrade-switch serve``: files, the status page, the file with options.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.certificate import CERTIFICATE_PEM, KEY_PEM
from tests.kit.commands import COMMAND, LOCAL, echo, fails, listening, read_until, serving
from tests.kit.harness import field, status, upgrade_head
from tests.kit.operating import Operated, body_of, connected, get, upgraded

OPS = b"Authorization: Basic " + b64encode(b"ops:secret") + b"\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files to be served, and one beside them."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "public").mkdir()
    (folder / "beside.txt").write_text("not to be seen")
    for name in ("", "a", "a/b", "empty"):
        (folder / "public" / name).mkdir(exist_ok=True)
        if name != "empty":
            (folder / "public" / name / "index.html").write_text(f"index of /{name}")
            (folder / "public" / name / "file.txt").write_text(f"file in /{name}")
    (folder / "public" / "ü&.txt").write_text("a name")
    return folder


@pytest.fixture(scope="module")
def at_root(folder: Path) -> Iterator[str]:
    """A server with files at / and tunnels below it, one of them in a directory that has files."""
    options = ["--files", f"/ {folder}/public", "--status", "/status"]
    tunnels = ["--tunnel", "/ssh ssh tcp:127.0.0.1:1", "--tunnel", "/a/b/db db tcp:127.0.0.1:1"]
    with serving(*options, *tunnels) as server:
        yield server.url


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/", b"index of /"),
        ("/file.txt", b"file in /"),
        ("/a/", b"index of /a"),
        ("/a/file.txt", b"file in /a"),
        ("/a/b/file.txt", b"file in /a/b"),
        ("/a/b/", b"index of /a/b"),
        ("/%C3%BC%26.txt", b"a name"),
    ],
)
def test_files_at_the_root(at_root: str, target: str, body: bytes) -> None:
    """Files take the front page's place; a tunnel below a directory hides none of its files."""
    code, got = get(at_root, target)
    assert (code, body_of(got)) == (200, body)


def test_besides_files(at_root: str) -> None:
    """Tunnels and the status page below the files are there, a directory's path gets its slash."""
    for target, token in (("/ssh", b"ssh"), ("/a/b/db", b"db")):
        code, got = get(at_root, target)
        assert (code, field(got, b"upgrade")) == (426, token)
        with connected(at_root) as client:
            client.sendall(upgrade_head(token, path=target.encode()))
            assert status(read_until(client, b"\r\n\r\n")) == 502
    assert get(at_root, "/status")[0] == 200
    code, got = get(at_root, "/a")
    assert (code, field(got, b"location")) == (302, b"/a/")


@pytest.mark.parametrize(
    "target",
    [
        "/%FF",
        "/a/%FF.txt",
        "/%C3",
        "/%00",
        "/file.txt%00",
        "/a%00b/file.txt",
        "/%0A",
        "/../beside.txt",
        "/%2e%2e/beside.txt",
        "/..%2Fbeside.txt",
        "/a/../../beside.txt",
        "/a%2F..%2F..%2Fbeside.txt",
        "/%2Fetc/passwd",
        "/%2Fetc%2Fpasswd",
        "//etc/passwd",
        "/a%2Ffile.txt",
        "/a%2F/file.txt",
        "/a%2F./file.txt",
        "/x%2F..%2Fa/file.txt",
        "/file.txt/",
        "/file.txt/x",
        "/" + "x" * 300,
        "/" + "a/" * 2000,
        "/nowhere",
        "/a/b/c",
        "/\xff",
    ],
    ids=lambda target: ascii(target[:30]),
)
def test_no_such_file(at_root: str, target: str) -> None:
    """What is the name of no file here is not there, and no line in the log (which stays empty)."""
    code, got = get(at_root, target)
    assert code in (400, 404)
    assert b"not to be seen" not in got


def test_files_at_a_path(folder: Path) -> None:
    """Files at several paths; the front page is there, has links to them, and stays out of them."""
    options = ["--files", f"/pub {folder}/public", "--files", f"/x/y/ {folder}/public/a/b"]
    with serving(*options) as server:
        for target, body in (
            ("/pub/file.txt", b"file in /"),
            ("/pub/", b"index of /"),
            ("/x/y/file.txt", b"file in /a/b"),
        ):
            code, got = get(server.url, target)
            assert (code, body_of(got)) == (200, body)
        page = get(server.url)[1]
        assert b'href="/pub"' in page
        assert b'href="/x/y"' in page
        assert get(server.url, "/file.txt")[0] == 404
        upgraded(server.url, "/echo", "echo").close()


@pytest.mark.parametrize(
    "value", ["", "/", "/x", "/x ", "x .", "/x /no/such/directory", "/x?y .", f"/x {__file__}"]
)
def test_files_values(value: str) -> None:
    """``--files`` wants a path and a directory that is there, or says so: one line, exit code 2."""
    assert "--files" in fails(2, "serve", "--listen", LOCAL, "--files", value)


@pytest.mark.parametrize(
    "options",
    [
        ["--files", "/a .", "--files", "/a/ ."],
        ["--files", "/ .", "--files", "// ."],
        ["--files", "/ .", "--tunnel", "/ x tcp:127.0.0.1:1"],
        ["--files", "/a .", "--tunnel", "/a x tcp:127.0.0.1:1"],
        ["--files", "/a .", "--status", "/a"],
        ["--status", "/echo"],
    ],
    ids=" ".join,
)
def test_two_things_at_one_path(options: list[str]) -> None:
    """Two things at one path: one line, exit code 2."""
    fails(2, "serve", "--listen", LOCAL, *options)


def test_status() -> None:
    """``--status``: a page, JSON and Prometheus' text, of what is switched and what was declined."""
    auth = ["--auth", "/admin memory:ops:secret"]
    with serving("--status", "/admin/status/", *auth, "--drain", "0") as server:
        for target in ("", "/", "/json", "/metrics", "/nowhere"):
            assert get(server.url, f"/admin/status{target}")[0] == 401
        with connected(server.url) as client:
            client.sendall(upgrade_head(b"unknown", path=b"/echo"))
            assert status(read_until(client, b"\r\n\r\n")) == 426
        with upgraded(server.url, "/echo", "echo"):
            page = get(server.url, "/admin/status", OPS)[1]
            assert field(page, b"content-type") == b"text/html; charset=utf-8"
            for target, fields in (("/json", OPS), ("", OPS + b"Accept: application/json\r\n")):
                code, got = get(server.url, f"/admin/status{target}", fields)
                assert (code, field(got, b"content-type")) == (200, b"application/json")
                shown = json.loads(body_of(got))
                (live,) = shown["switched"]
                assert (live["token"], live["path"], live["target"]) == ("echo", "/echo", "Echo")
                (declined,) = shown["declined"]
                assert (declined["tokens"], declined["path"]) == ("unknown", "/echo")
            code, got = get(server.url, "/admin/status/metrics", OPS)
            assert code == 200
            assert b'upgrade_switch_connections{token="echo"} 1.0\n' in got
            assert get(server.url, "/admin/status/nowhere", OPS)[0] == 404


@pytest.mark.parametrize("path", ["", "/", "//", "status", "/a?b"])
def test_status_values(path: str) -> None:
    """``--status`` wants a path, or says so: one line, exit code 2."""
    assert "--status" in fails(2, "serve", "--listen", LOCAL, "--status", path)


def test_config(tmp_path: Path) -> None:
    """A file may have every option but itself."""
    for name, text in (("key.pem", KEY_PEM), ("cert.pem", CERTIFICATE_PEM), ("page.txt", b"a page")):
        (tmp_path / name).write_bytes(text)
    (tmp_path / "things.py").write_text("from twisted.web.resource import Resource as Thing\n")
    with listening(echo, connections=2) as port:
        (tmp_path / "serve.toml").write_text(f"""
            listen = ["{LOCAL}", "ssl:0:interface=127.0.0.1:privateKey=key.pem:certKey=cert.pem"]
            tunnel = ["/ssh ssh tcp:127.0.0.1:{port}", "/vnc websocket tcp:127.0.0.1:1"]
            class = ["/thing things.Thing"]
            files = "/files ."
            auth = ["/ssh memory:ops:secret", "/status memory:ops:secret"]
            origin = ["https://example.com"]
            preface = ['HELLO\\r\\n tcp:127.0.0.1:{port}']
            status = "/status"
            drain = 0.5
            log-format = "none"
            access-log = "access.log"
            h2c = true
        """)
        environment = {"PYTHONPATH": str(tmp_path), "PATH": ""}
        command = [COMMAND, "serve", "--config", "serve.toml"]
        with Operated(command, cwd=tmp_path, env=environment) as server:
            urls = [server.listens(), server.listens()]
            assert [url.partition(":")[0] for url in urls] == ["http", "https"]
            for url in urls:
                assert body_of(get(url, "/files/page.txt")[1]) == b"a page"
            assert get(urls[0], "/status")[0] == 401
            assert get(urls[0], "/thing/x")[0] == 404
            with upgraded(urls[0], "/ssh", "ssh", OPS) as client:
                client.sendall(b"hello")
                assert read_until(client, b"hello") == b"hello"
            with connected(urls[0]) as client:
                client.sendall(b"HELLO\r\n")
                assert read_until(client, b"\r\n") == b"HELLO\r\n"
            with connected(urls[0]) as client:
                client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
                assert client.recv(1)
            server.terminate()
            assert server.ends() == (0, b"", b"")
    assert len((tmp_path / "access.log").read_text().splitlines()) == 5


def test_command_line_and_config(tmp_path: Path) -> None:
    """The command line wins, where an option is given once; lists add up, wherever ``--config`` is."""
    file = tmp_path / "serve.toml"
    file.write_text(f"""
        listen = "{LOCAL}"
        tunnel = "/one x tcp:127.0.0.1:1"
        status = "/status"
        access-log = "{tmp_path}/of-file.log"
        drain = 600
        h2c = false
    """)
    before = ["--status", "/mine", "--tunnel", "/two x tcp:127.0.0.1:1"]
    after = ["--access-log", f"{tmp_path}/mine.log", "--tunnel", "/three x tcp:127.0.0.1:1"]
    with serving(*before, "--config", str(file), *after) as server:
        server.says()
        codes = [get(server.url, f"/{name}")[0] for name in ("mine", "status", "one", "two", "three")]
        assert codes == [200, 404, 426, 426, 426]
    assert (tmp_path / "mine.log").exists()
    assert not (tmp_path / "of-file.log").exists()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('listne = "tcp:0"', "listne"),
        ('config = "other.toml"', "config"),
        ("help = true", "help"),
        ("version = true", "version"),
        ('log_format = "json"', "log_format"),
        ("listen = 8080", "listen"),
        ("tunnel = [1]", "tunnel"),
        ('auth = ["memory:ops:hunter2", ["memory:ops:hunter2"]]', "auth"),
        ('auth = "memory:ops:hunter2:"', "auth"),
        ('[auth]\nmethod = "hunter2"', "auth"),
        ("status = 7", "status"),
        ("status = ['/a', '/b']", "status"),
        ("access-log = 1", "access-log"),
        ("drain = true", "drain"),
        ("drain = nan", "drain"),
        ("drain = 1979-05-27", "drain"),
        ('drain = "soon"', "drain"),
        ("h2c = 1", "h2c"),
        ('h2c = "yes"', "h2c"),
        ('log-format = "xml"', "log-format"),
        ('tunnel = "/x"', "tunnel"),
        ('files = "/x /no/such/directory"', "files"),
        ('access-log = "a\\u0000b"', "access-log"),
        ('class = "/x there_is.NoSuchClass"', "class"),
        ('listen = "nothing:1"', "nothing:1"),
        ("listen = [", "serve.toml"),
        ("drain = 1\ndrain = 2", "serve.toml"),
        ("a = " + "[" * 5000, "serve.toml"),
        (b"drain = 1 # \xff", "utf-8"),
        (b"\xff\xfed\0", "utf-8"),
        ("drain = 1\0", "serve.toml"),
    ],
    ids=lambda text: ascii(text)[:40],
)
def test_bad_config(text: Any, named: str, tmp_path: Path) -> None:
    """What is wrong in the file: one line that names it, and tells no password; exit code 2."""
    file = tmp_path / "serve.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = fails(2, "serve", "--listen", LOCAL, "--config", str(file))
    assert named in line
    assert "hunter2" not in line


@pytest.mark.parametrize("name", ["", "missing.toml", "missing/serve.toml"])
def test_no_config(name: str, tmp_path: Path) -> None:
    """No such file, or a directory: one line that names it, exit code 2."""
    file = str(tmp_path / name)
    line = fails(2, "serve", "--listen", LOCAL, "--config", file)
    assert f"--config {file}" in line
