"""This project: ``upgrade-switch serve``, whose /echo has the tokens echo and websocket."""

import os
import sys
from pathlib import Path

port = sys.argv[1]
# It says on standard error where it listens.
os.dup2(1, 2)
command = str(Path(sys.executable).with_name("upgrade-switch"))
options = ["serve", "--log-format", "none", "--listen", f"tcp:{port}:interface=127.0.0.1"]
os.execv(command, [command, *options])
