"""The public names of ``upgrade_switch.protocols``, which are imported when they are asked for."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from upgrade_switch import protocols
from upgrade_switch.errors import MissingExtra


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


@pytest.mark.parametrize("name", protocols.__all__)
def test_each_name(name: str) -> None:
    """Each public name resolves to what one can call, or to a value."""
    value = getattr(protocols, name)
    assert callable(value) or name == "SAME_ORIGIN"
    # It is a function or a class of that name, not a module.
    assert getattr(value, "__name__", name) == name
    assert not isinstance(value, type(sys))


def test_star() -> None:
    """``from upgrade_switch.protocols import *`` brings exactly the public names."""
    brought: dict[str, Any] = {}
    exec("from upgrade_switch.protocols import *", brought)
    brought.pop("__builtins__")
    assert sorted(brought) == sorted(protocols.__all__)
    assert brought == {name: getattr(protocols, name) for name in protocols.__all__}


def test_dir() -> None:
    """``dir()`` lists all public names, and importing the package imports none of them."""
    code = """
import sys
from upgrade_switch import protocols
assert set(protocols.__all__) <= set(dir(protocols))
assert not set(protocols.__all__) & set(vars(protocols))
print([name for name in sys.modules if name.startswith("upgrade_switch.protocols.")])
"""
    assert run(code) == "[]\n"


def test_looked_up_once() -> None:
    """A name that has been asked for is an attribute of the package from then on."""
    assert protocols.tunnel is protocols.tunnel
    assert vars(protocols)["tunnel"] is protocols.tunnel


@pytest.mark.parametrize("name", ["nonsense", "_nonsense", "Tunnel", "websocket_", "__path_"])
def test_unknown_name(name: str) -> None:
    """A name that is not public raises AttributeError, which names the package."""
    with pytest.raises(AttributeError, match=rf"'upgrade_switch\.protocols' has no attribute '{name}'"):
        getattr(protocols, name)
    assert not hasattr(protocols, name)


def test_unknown_name_imported() -> None:
    """Importing a name that is not public is an ImportError."""
    with pytest.raises(ImportError, match="nonsense"):
        from upgrade_switch.protocols import nonsense  # noqa: F401


@pytest.mark.parametrize(
    ("lacks", "name", "extra"),
    [
        *(("autobahn", name, "websocket") for name in protocols.__all__ if "ebSocket" in name),
        ("autobahn", "byte_stream", "websocket"),
        ("h2", "h2c", "http2"),
    ],
)
def test_missing_extra(lacks: str, name: str, extra: str) -> None:
    """Without its extra, a name raises MissingExtra with the pip line; the others are still there."""
    code = f"""
import sys
sys.modules[{lacks!r}] = None
from upgrade_switch import errors, protocols
protocols.tunnel, protocols.tls
try:
    protocols.{name}
except errors.MissingExtra as error:
    print(error)
"""
    assert run(code).endswith(f": pip install 'upgrade_switch[{extra}]'\n")
    assert issubclass(MissingExtra, ImportError)


@pytest.mark.parametrize("module", ["h2c", "tls", "tunnel", "websocket", "_tunnel.tunnel"])
def test_no_module_of_a_public_name(module: str) -> None:
    """No module has the name of a protocol: ``import upgrade_switch.protocols.tunnel`` fails."""
    with pytest.raises(ModuleNotFoundError):
        __import__(f"upgrade_switch.protocols.{module}")


def test_types(tmp_path: Any) -> None:
    """For mypy, each name has a type of its own: it is neither unknown nor Any."""
    api = pytest.importorskip("mypy.api", reason="needs mypy: pip install -e .[dev]")
    program = tmp_path / "program.py"
    lines = [f"reveal_type(protocols.{name})" for name in protocols.__all__]
    program.write_text("\n".join(["from upgrade_switch import protocols", *lines, ""]))
    settings = tmp_path / "mypy.ini"
    # What others' types are is not the question, and would take longer than the rest.
    others = ",".join(f"{name}.*" for name in ("autobahn", "cryptography", "h2", "OpenSSL", "twisted"))
    silent, skip = (f"follow_imports = {how}" for how in ("silent", "skip"))
    settings.write_text(f"[mypy]\n{silent}\n[mypy-{others}]\n{skip}\n")
    arguments = ["--config-file", str(settings), "--cache-dir", str(tmp_path), str(program)]
    said, complaints, _ = api.run(arguments)
    revealed = [
        line.partition("Revealed type is ")[2] for line in said.splitlines() if "Revealed" in line
    ]
    assert len(revealed) == len(protocols.__all__), said + complaints
    for name, found in zip(protocols.__all__, revealed, strict=True):
        assert found.strip('"') not in ("Any", "object"), (name, found)
