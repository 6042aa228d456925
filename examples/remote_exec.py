"""
A small exec service in the form of Docker's API: Docker's own client runs commands through it, but only
those that you allow, as the user that the server runs as.

    python examples/remote_exec.py 'cat date uptime' tcp:2375:interface=127.0.0.1

    docker -H tcp://127.0.0.1:2375 exec box date
    docker -H tcp://127.0.0.1:2375 exec -it box cat
    docker -H tcp://127.0.0.1:2375 attach box

The one container is called box. Whoever attaches to it gets a run of the first command. A connection
switches by Upgrade: tcp; or without an upgrade, as clients before Docker 1.12 want it. Others can do
the same, in two steps; with Tty, the output comes as it is.

    curl -d '{"Cmd": ["date"], "Tty": true}' http://127.0.0.1:2375/containers/box/exec
    upgrade-switch connect --data '{}' http://127.0.0.1:2375/exec/ID/start tcp

Whoever reaches the port can run the commands, with any arguments. To let in nobody but yourself, listen
on a UNIX socket:

    python examples/remote_exec.py 'cat date uptime' unix:exec.sock:mode=600
    docker -H unix://$PWD/exec.sock exec box uptime
"""

import fcntl
import json
import re
import shlex
import shutil
import struct
import sys
import termios
from contextlib import suppress
from secrets import token_hex

from twisted.internet import endpoints, task
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import ProcessProtocol, Protocol
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from upgrade_switch import UpgradeSite
from upgrade_switch.errors import SwitchRefused

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "TERM": "xterm", "LC_ALL": "C.UTF-8"}
MAX_KNOWN = 1000


@implementer(IPushProducer)
class Run(ProcessProtocol):
    """
    A command: one that is to run, that runs, or that has ended.

    :ivar stream: the client's connection; None if nobody sees what the command writes.
    """

    stream = exit_code = None

    def __init__(self, command, tty=False, size=None):
        self.command = command
        self.tty = tty
        self.size = size
        self.ended = Deferred()

    def start(self, reactor):
        program = shutil.which(self.command[0])
        reactor.spawnProcess(self, program, self.command, ENVIRONMENT, usePTY=self.tty)

    def connectionMade(self):
        if self.size:
            self.resize(*self.size)
        if self.stream is None:
            self.transport.closeStdin()
        else:
            # Neither side reads more than the other takes.
            self.stream.transport.registerProducer(self, True)
            self.transport.registerProducer(self.stream, True)

    def resize(self, height, width):
        if self.tty and self.transport is not None and self.exit_code is None:
            size = struct.pack("4H", height, width, 0, 0)
            fcntl.ioctl(self.transport.fileno(), termios.TIOCSWINSZ, size)

    def childDataReceived(self, descriptor, data):
        if self.stream is not None:
            # A terminal has one output; otherwise a header tells stdout and stderr apart.
            header = b"" if self.tty else struct.pack(">BxxxL", descriptor, len(data))
            self.stream.transport.write(header + data)

    def pauseProducing(self):
        self.transport.pauseProducing()

    def resumeProducing(self):
        self.transport.resumeProducing()

    def stopProducing(self):
        """The client has gone: it is killed."""

    def kill(self):
        # Also what the command has started, if that still writes.
        self.transport.loseConnection()
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")

    def processEnded(self, reason):
        ended = reason.value
        self.exit_code = 128 + ended.signal if ended.signal else ended.exitCode
        self.ended.callback(self.exit_code)
        if self.stream is not None:
            self.stream.end()


@implementer(IHalfCloseableProtocol, IPushProducer)
class Stream(Protocol):
    """The client's side of a command: what comes is its input."""

    is_at_end = False  # of the input
    is_over = False

    def __init__(self, reactor, run):
        self.reactor = reactor
        self.run = run

    def connectionMade(self):
        self.run.stream = self
        self.run.start(self.reactor)

    def dataReceived(self, data):
        if not self.is_over:
            self.run.transport.write(data)

    def readConnectionLost(self):
        self.is_at_end = True
        if self.is_over:
            self.transport.loseConnection()
        elif self.run.tty:
            self.run.transport.write(b"\x04")  # as one types it
        else:
            self.run.transport.closeStdin()

    def end(self):
        """
        The command has ended, and all that it wrote has been read. What the client goes on sending is
        dropped, since closing on it would be a reset, which may cost the client some of the output.
        """
        self.is_over = True
        self.transport.unregisterProducer()
        if self.is_at_end:
            self.transport.loseConnection()
        else:
            self.transport.resumeProducing()
            self.transport.loseWriteConnection()

    def writeConnectionLost(self):
        pass

    def connectionLost(self, reason):
        self.run.stream = None
        if not self.is_over:
            self.run.kill()

    # The producer of the command's input.

    def pauseProducing(self):
        self.transport.pauseProducing()

    def resumeProducing(self):
        self.transport.resumeProducing()

    def stopProducing(self):
        # The command has closed its input, but may still have something to say.
        self.transport.resumeProducing()


class Engine(Resource):
    """The part of Docker's API that exec and attach need."""

    isLeaf = True

    def __init__(self, reactor, allowed):
        super().__init__()
        self.reactor = reactor
        self.allowed = allowed
        self.runs = {}
        self.waiting = []

    def render(self, request):
        request.setHeader("Api-Version", "1.44")
        if request.getHeader("origin"):
            return refuse(request, 403, "This is not for pages in browsers.")
        try:
            return self.find(request)
        except SwitchRefused as error:
            return refuse(request, 503, str(error))
        except (LookupError, TypeError, ValueError) as error:
            return refuse(request, 400, f"This is not a request of Docker's: {error!r}")

    def find(self, request):
        path = request.postpath
        if re.fullmatch(rb"v1\.\d+", path[0]):
            path = path[1:]
        match request.method, *path:
            case b"GET" | b"HEAD", b"_ping":
                return b"OK"
            case b"GET", b"version":
                return answer(request, {"Version": "1", "ApiVersion": "1.44", "Os": "linux"})
            case b"GET", b"containers", b"box", b"json":
                return answer(request, BOX)
            case b"POST", b"containers", b"box", b"exec":
                return self.create(request)
            case b"POST", b"containers", b"box", b"wait":
                return self.wait(request)
            case b"POST", b"containers", b"box", b"attach":
                return self.join(request, Run([self.allowed[0]]), self.answer_waiting)
            case b"POST", b"containers", b"box", b"resize":
                return answer(request, {})
            case b"POST", b"exec", known, b"start" if known in self.runs:
                return self.start(request, self.runs[known])
            case b"POST", b"exec", known, b"resize" if known in self.runs:
                self.runs[known].resize(*(int(request.args[name][0]) for name in (b"h", b"w")))
                return answer(request, {})
            case b"GET", b"exec", known, b"json" if known in self.runs:
                return self.inspect(request, known, self.runs[known])
        return refuse(request, 404, f"No such thing here: {request.path.decode('latin-1')}")

    def create(self, request):
        asked = json.load(request.content)
        command = asked["Cmd"]
        if command[0] not in self.allowed:
            return refuse(request, 403, f"only these may run: {', '.join(self.allowed)}")
        if any(asked.get(name) for name in ("Env", "Privileged", "User", "WorkingDir")):
            return refuse(request, 400, "no other user, folder or environment is to be had")
        name = token_hex(32)
        self.runs[name.encode()] = Run(command, asked.get("Tty"), asked.get("ConsoleSize"))
        if len(self.runs) > MAX_KNOWN:
            self.runs.pop(next(iter(self.runs)))
        return answer(request, {"Id": name}, 201)

    def start(self, request, run):
        if run.transport is not None:
            return refuse(request, 409, "It has been started already.")
        if json.load(request.content).get("Detach"):
            run.start(self.reactor)
            return answer(request, {})
        return self.join(request, run)

    def join(self, request, run, then=None):
        """Switch to a command's input and output."""
        if then is not None:
            run.ended.addCallback(then)
        form = "raw" if run.tty else "multiplexed"
        request.setHeader("Content-Type", f"application/vnd.docker.{form}-stream")
        stream = Stream(self.reactor, run)
        if "tcp" in request.offer:
            request.switch_to("tcp", stream, b"UPGRADED")
        else:
            request.take_over(stream)
        return NOT_DONE_YET

    def wait(self, request):
        request.setHeader("Content-Type", "application/json")
        request.write(b"")  # the head, which the client waits for
        self.waiting.append(request)
        request.notifyFinish().addBoth(lambda _: self.waiting.remove(request))
        return NOT_DONE_YET

    def answer_waiting(self, exit_code):
        for request in list(self.waiting):
            request.write(json.dumps({"StatusCode": exit_code}).encode())
            request.finish()

    def inspect(self, request, known, run):
        running = run.transport is not None and run.exit_code is None
        found = {"ID": known.decode(), "Running": running, "ExitCode": run.exit_code}
        return answer(request, found | {"ContainerID": "box", "Pid": 0})


BOX = {
    "Id": "box",
    "Name": "/box",
    "State": {"Status": "running", "Running": True},
    "Config": {"OpenStdin": True, "Tty": False},
}


def answer(request, value, code=200):
    request.setResponseCode(code)
    request.setHeader("Content-Type", "application/json")
    return json.dumps(value).encode()


def refuse(request, code, message):
    return answer(request, {"message": message}, code)


async def main(reactor, commands, description="tcp:2375:interface=127.0.0.1"):
    allowed = shlex.split(commands)
    missing = [command for command in allowed if not shutil.which(command)]
    if missing or not allowed:
        sys.exit(f"remote_exec.py: no such command: {' '.join(missing)}")
    site = UpgradeSite(Engine(reactor, allowed), max_switched=100)
    port = await endpoints.serverFromString(reactor, description).listen(site)
    print(f"listening on {port.getHost()}", flush=True)
    await Deferred()  # forever


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    task.react(main, sys.argv[1:])
