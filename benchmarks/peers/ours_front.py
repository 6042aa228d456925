"""This project as a proxy in front of a good server: ``serve --proxy``."""

import sys
from pathlib import Path

from fronting import Place, run


def command(place: Place) -> list[str]:
    return [
        str(Path(sys.executable).with_name("upgrade-switch")),
        *("serve", "--log-format", "none", "--listen", f"tcp:{place.port}:interface=127.0.0.1"),
        *("--proxy", f"/ http://127.0.0.1:{place.back} tokens=echo"),
    ]


run(command, *sys.argv[1:])
