"""
The chat on several processes: a router (crossbar) connects them, and haproxy is in front::

    make cluster

Ctrl-C ends it all. Kill one of the nodes: a moment later its users are on another one, and it is
started again.
"""

import argparse
import json
import os
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
    # A WebSocket may stay open for as long as it likes: the nodes ping.
    timeout tunnel 1h
    retries 3
    option redispatch 1
    # A kept connection may lead to a node that is about to end.
    option http-server-close

frontend chat
    bind {listen}
    default_backend nodes
    http-response set-header X-Node %s

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
    """Wait until something listens on the port."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"chat.cluster: {process.args[0]} does not listen on port {port}")


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
    """
    A router, some nodes, and haproxy, all on this machine.

    :ivar ports: the ports of the nodes.
    """

    def __init__(self, listen, nodes, crossbar, haproxy, folder):
        self._folder = Path(folder)
        self._listen = listen
        self.ports = [free_port() for _ in range(nodes)]
        self._router_port = free_port()
        configuration = self._folder / "haproxy.cfg"
        servers = "\n".join(f"    server n{n} 127.0.0.1:{p}" for n, p in enumerate(self.ports))
        configuration.write_text(HAPROXY.format(listen=listen, servers=servers))
        (self._folder / "config.json").write_text(json.dumps(router_config(self._router_port)))
        self._commands = {"router": [crossbar, "start", "--cbdir", str(self._folder)]}
        for number, port in enumerate(self.ports):
            listening = f"tcp:{port}:interface=127.0.0.1"
            router = f"ws://127.0.0.1:{self._router_port}/"
            node = [sys.executable, "-m", "chat", "--listen", listening, "--router", router]
            self._commands[f"node {number}"] = node
        self._commands["haproxy"] = [haproxy, "-db", "-f", str(configuration)]
        self._ports = dict(zip(self._commands, [self._router_port, *self.ports], strict=False))
        self._ports["haproxy"] = int(listen.rpartition(":")[2])
        self._processes = {}

    def start(self):
        for name in self._commands:
            self.start_one(name)
        for name, process in self._processes.items():
            wait_for(self._ports[name], process)

    def start_one(self, name):
        """Start the router, haproxy, or ``node 0`` and so on."""
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603 - commands of its own
                self._commands[name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parent.parent,
                # A group of its own: the router has a worker process, which is to end with it, and
                # Ctrl-C is for this process alone.
                start_new_session=True,
            )
        return self._processes[name]

    def restart(self, name):
        """Restart a process that has ended, and wait until it listens."""
        wait_for(self._ports[name], self.start_one(name))

    def kill(self, name, how=signal.SIGKILL):
        """Send a signal to a process; by default as if its machine had lost power."""
        process = self._processes[name]
        os.killpg(process.pid, how)
        process.wait()

    def ended(self):
        """The names of those that have ended."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    def started(self):
        """Names and process ids."""
        return {name: process.pid for name, process in self._processes.items()}

    def log(self):
        """The output of all processes."""
        return "".join(p.read_text(errors="replace") for p in sorted(self._folder.glob("*.log")))

    def stop(self):
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        for name, process in self._processes.items():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill(name)


def find(program, hint):
    """A program's path. If it is not installed, exit with one line that says so."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which(program, path=path)
    if found is None:
        raise SystemExit(f"chat.cluster: there is no {program} here: {hint}")
    return str(Path(found).absolute())


def supervise(cluster, signals):
    """Restart whatever ends, until a signal arrives."""
    while not signals:
        for name in cluster.ended():
            process = cluster.start_one(name)
            print(f"{name} has ended, and is started again: process {process.pid}", flush=True)
        time.sleep(0.2)


def main():
    parser = argparse.ArgumentParser(prog="python -m chat.cluster")
    parser.add_argument("--listen", default="127.0.0.1:8090", help="where haproxy listens")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--crossbar", default="crossbar", help="the program")
    parser.add_argument("--haproxy", default="haproxy", help="the program")
    options = parser.parse_args()
    haproxy = find(options.haproxy, "apt-get install haproxy")
    crossbar = find(options.crossbar, "make cluster installs it")
    # An exception could arrive while a process is being started, which nobody would end then.
    signals = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(number))
    with tempfile.TemporaryDirectory(prefix="chat-") as folder:
        cluster = Cluster(options.listen, options.nodes, crossbar, haproxy, folder)
        try:
            cluster.start()
            for name, process in cluster.started().items():
                print(f"{name}: process {process}")
            print(f"the chat: http://{options.listen}/chat/", flush=True)
            supervise(cluster, signals)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
