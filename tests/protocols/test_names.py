"""
The package of protocols: its modules can be called, in whatever order they are imported.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import permutations

import pytest

from upgrade_switch import protocols

WAYS = (
    "from upgrade_switch.protocols import {0} as way; found.append(way)",
    "from upgrade_switch.protocols.{0} import {0} as way; found.append(way)",
    "import upgrade_switch.protocols.{0} as way; found.append(way.{0})",
)

CHECK = """
def says(way):
    try:
        return way(1, 2, 3, 4, 5)
    except TypeError as error:
        return str(error)
assert len(set(map(says, found))) == 1, found
"""


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_module_is_its_function(order: tuple[int, ...]) -> None:
    """Each way of importing a protocol gives what can be called, whichever comes first."""
    for name in ("h2c", "tls", "tunnel", "websocket"):
        lines = "\n".join(WAYS[i].format(name) for i in order)
        program = f"found = []\n{lines}\n{CHECK}"
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_names() -> None:
    """The package has the names that it says, and no others."""
    for name in protocols.__all__:
        assert callable(getattr(__import__("upgrade_switch.protocols", fromlist=[name]), name))
    with pytest.raises(AttributeError, match="nonsense"):
        protocols.nonsense  # noqa: B018
