"""
The chat on several processes: a router (crossbar) joins them, haproxy stands in front::

    make cluster

Ctrl-C ends it all. Kill one of the nodes: its users are on another a moment later.
"""

import argparse
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HAPROXY = """\
defaults
    mode http
    timeout connect 1s
    timeout client 1m
    timeout server 1m
    # A WebSocket lives as long as it likes: the nodes ping.
    timeout tunnel 1h
    retries 3
    option redispatch 1

frontend chat
    bind {listen}
    default_backend nodes

backend nodes
    balance leastconn
    option httpchk GET /chat/rooms
    default-server check inter 500ms fall 1 rise 1 on-marked-down shutdown-sessions
{servers}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port, process):
    """Until somebody listens there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"{process.args[0]} does not listen on port {port}")


def router_config(port):
    everything = {
        "match": "prefix",
        "allow": dict.fromkeys(("call", "register", "publish", "subscribe"), True),
    }
    role = {"name": "anonymous", "permissions": [{"uri": "", **everything}]}
    return {
        "version": 2,
        "workers": [
            {
                "type": "router",
                "realms": [{"name": "chat", "roles": [role]}],
                "transports": [
                    {
                        "type": "websocket",
                        "endpoint": {"type": "tcp", "port": port, "interface": "127.0.0.1"},
                    }
                ],
            }
        ],
    }


class Cluster:
    """A router, some nodes, and haproxy, all on this machine."""

    def __init__(self, listen, nodes, crossbar, folder):
        self._folder = Path(folder)
        self._crossbar = crossbar
        self._listen = listen
        self.nodes = [None] * nodes
        self.ports = [free_port() for _ in self.nodes]
        self._others = []

    def start(self):
        router = free_port()
        (self._folder / "config.json").write_text(json.dumps(router_config(router)))
        command = [self._crossbar, "start", "--cbdir", str(self._folder)]
        self._others.append(self._run(command, "router.log"))
        wait_for(router, self._others[0])
        self._router = f"ws://127.0.0.1:{router}/"
        for number in range(len(self.nodes)):
            self.start_node(number)
        servers = "\n".join(f"    server n{n} 127.0.0.1:{p}" for n, p in enumerate(self.ports))
        configuration = self._folder / "haproxy.cfg"
        configuration.write_text(HAPROXY.format(listen=self._listen, servers=servers))
        haproxy = shutil.which("haproxy") or "/usr/sbin/haproxy"
        self._others.append(self._run([haproxy, "-f", str(configuration)], "haproxy.log"))
        wait_for(int(self._listen.rpartition(":")[2]), self._others[1])

    def start_node(self, number):
        listen = f"tcp:{self.ports[number]}:interface=127.0.0.1"
        command = [sys.executable, "-m", "chat", "--listen", listen, "--router", self._router]
        self.nodes[number] = self._run(command, f"node{number}.log")
        wait_for(self.ports[number], self.nodes[number])

    def _run(self, command, log):
        with (self._folder / log).open("ab") as file:
            here = Path(__file__).parent.parent
            return subprocess.Popen(
                command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, cwd=here
            )

    def stop(self):
        processes = [p for p in [*self.nodes, *reversed(self._others)] if p is not None]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def main():
    parser = argparse.ArgumentParser(prog="python -m chat.cluster")
    parser.add_argument("--listen", default="127.0.0.1:8090", help="where haproxy listens")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--crossbar", default=shutil.which("crossbar"), help="the program")
    options = parser.parse_args()
    if options.crossbar is None:
        raise SystemExit("no crossbar here: pip install crossbar, or make cluster")
    # As Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(options.listen, options.nodes, options.crossbar, folder)
        try:
            cluster.start()
            for number, node in enumerate(cluster.nodes):
                print(f"node {number}: process {node.pid}")
            print(f"the chat: http://{options.listen}/chat/", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
