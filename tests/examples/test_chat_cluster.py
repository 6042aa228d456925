"""
The chat on three nodes, which a router joins, behind haproxy: what happens when parts of it die.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread

from tests.kit.chatting import EXAMPLES, User, chat, cluster_module, get
from tests.kit.commands import PATIENCE
from tests.kit.foreign import find, needs
from tests.kit.harness import reactor

NODES = 3

#: How long it may take until the users of a node that has died are on another, in seconds.
SOON = 5

pytestmark = needs("haproxy")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running cluster; ``url`` is haproxy's, ``nodes`` are the nodes' own."""
    listen = f"127.0.0.1:{cluster_module.free_port()}"
    haproxy = find("haproxy")
    running = cluster_module.Cluster(
        listen, NODES, find("crossbar"), haproxy, tmp_path_factory.mktemp("cluster")
    )
    running.url = f"http://{listen}/chat/"
    running.nodes = [f"http://127.0.0.1:{port}/chat/" for port in running.ports]
    try:
        running.start()
        yield running
    finally:
        running.stop()


class Crowd:
    """
    Some users of one room.

    :ivar said: all that they have said.
    """

    def __init__(self, room: str) -> None:
        self.users: list[User] = []
        self.said: list[str] = []
        self._room = room

    async def enter(self, *bases: str) -> None:
        """One more user at each of these addresses; fires when all see all."""
        for base in bases:
            user = User(base, f"user {len(self.users)}", self._room)
            self.users.append(await user.enter())
        await self.all_are_seen()

    def say(self) -> None:
        """Each says something."""
        for user in self.users:
            text = f"{user.name}, {len(self.said)}"
            self.said.append(text)
            user.say(text)

    async def all_are_seen(self) -> None:
        names = sorted(user.name for user in self.users)
        for user in self.users:
            await user.until(lambda user=user: user.names == names)

    async def all_is_heard(self) -> None:
        """Each hears all that has been said, and nothing twice; each node has it in its history."""
        said = sorted(self.said)
        for user in self.users:
            await user.until(lambda user=user: len(user.heard) >= len(said))
            assert sorted(user.heard.values()) == said
            assert (user.doubled, user.unsaid) == ([], {})

    def leave(self) -> None:
        for user in self.users:
            user.leave()


@pytest_twisted.async_yield_fixture
async def crowd(cluster: Any, request: pytest.FixtureRequest) -> Any:
    """Users of a room that no other test has; at the end all of the cluster is running."""
    crowd = Crowd(request.node.name[:32])
    yield crowd
    for user in crowd.users:
        user.leave()
    for name in cluster.ended():
        await deferToThread(cluster.restart, name)


async def every_node_is_up(cluster: Any) -> None:
    """Until each node is there and has joined the others: sees somebody who is on another."""
    probe = [User(node, f"probe {n}", "probe") for n, node in enumerate(cluster.nodes)]
    for user in probe:
        await user.enter()
    for user in probe:
        await user.until(lambda user=user: len(user.names) == NODES)
        user.leave()


@pytest_twisted.ensureDeferred
async def test_talk(cluster: Any, crowd: Crowd) -> None:
    """Users on different nodes see and hear one another."""
    await every_node_is_up(cluster)
    await crowd.enter(*cluster.nodes)
    for _ in range(20):
        crowd.say()
    await crowd.all_is_heard()
    for node in cluster.nodes:
        history = await get(f"{node}history", room=crowd.users[0].room)
        assert sorted(message["text"] for message in history) == sorted(crowd.said)


@pytest_twisted.ensureDeferred
async def test_same_name(cluster: Any, crowd: Crowd) -> None:
    """Two people of one name on different nodes are two; one with a window on each node is one."""
    await every_node_is_up(cluster)
    for node, secret in zip(cluster.nodes, ("first-one", "another-one", "another-one"), strict=True):
        user = User(node, "Anna", "one name", secret)
        crowd.users.append(await user.enter())
    for user in crowd.users:
        await user.until(lambda user=user: user.names == ["Anna"] * 2)
    crowd.say()
    await crowd.all_is_heard()
    persons = [chat.person_of(secret) for secret in ("another-one", "another-one", "first-one")]
    for node in cluster.nodes:
        history = await get(f"{node}history", room="one name")
        assert sorted(message["person"] for message in history) == sorted(persons)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
@pytest_twisted.ensureDeferred
async def test_node_dies(cluster: Any, crowd: Crowd, how: int) -> None:
    """
    A node dies while everybody talks: its users are soon on another, nobody else notices, and no
    message is lost or heard twice. When it is back, it knows what has been said.
    """
    await every_node_is_up(cluster)
    await crowd.enter(*[cluster.url] * (2 * NODES))
    talking = LoopingCall(crowd.say)
    talking.start(0.05).addErrback(lambda _: None)
    await crowd.users[0].until(lambda: len(crowd.users[0].heard) > 30)
    number = int(crowd.users[0].node.removeprefix("n"))
    moving = [user for user in crowd.users if user.node == f"n{number}"]
    assert len(moving) < len(crowd.users)
    killed = reactor.seconds()
    await deferToThread(cluster.kill, f"node {number}", how)
    for user in moving:
        await user.until(lambda user=user: user.entered == 2)
        assert user.entered_at - killed < SOON
        assert user.node != f"n{number}"
    talking.stop()
    await crowd.all_is_heard()
    await crowd.all_are_seen()
    assert [user.lost for user in crowd.users] == [int(user in moving) for user in crowd.users]
    await deferToThread(cluster.restart, f"node {number}")
    await every_node_is_up(cluster)
    history = await get(f"{cluster.nodes[number]}history", room=moving[0].room)
    assert {message["text"] for message in history} <= set(crowd.said)
    assert len(history) == min(200, len(crowd.said))


@pytest_twisted.ensureDeferred
async def test_who_was_on_a_dead_node(cluster: Any, crowd: Crowd) -> None:
    """Who was on a node that died, and does not come back, is not there any more."""
    await every_node_is_up(cluster)
    await crowd.enter(*cluster.nodes)
    await deferToThread(cluster.kill, "node 1")
    crowd.users.pop(1).leave()
    await crowd.all_are_seen()
    crowd.say()
    await crowd.all_is_heard()


@pytest_twisted.ensureDeferred
async def test_router_dies(cluster: Any, crowd: Crowd) -> None:
    """The router dies: nobody is cut off, and what is said meanwhile arrives when it is back, once."""
    await every_node_is_up(cluster)
    await crowd.enter(*cluster.nodes)
    crowd.say()
    await crowd.all_is_heard()
    # Some of this may be on its way when it dies.
    for _ in range(10):
        crowd.say()
    await deferToThread(cluster.kill, "router")
    for _ in range(10):
        crowd.say()
    await deferToThread(cluster.restart, "router")
    await crowd.all_is_heard()
    await crowd.all_are_seen()
    assert [user.lost for user in crowd.users] == [0] * NODES
    crowd.say()
    await crowd.all_is_heard()


@contextmanager
def running(*options: str) -> Iterator[subprocess.Popen[str]]:
    """The command, which is ended if it keeps somebody waiting."""
    command = [sys.executable, "-m", "chat.cluster", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=EXAMPLES, text=True, **pipes) as process:  # type: ignore[call-overload]
        alarm = threading.Timer(PATIENCE, process.terminate)
        alarm.start()
        try:
            yield process
        finally:
            alarm.cancel()
            process.terminate()


def test_command() -> None:
    """
    The command starts all of it, says where it is, starts again what has ended, and ends with all of it
    at SIGTERM.
    """
    listen = f"127.0.0.1:{cluster_module.free_port()}"
    with running("--crossbar", find("crossbar"), "--nodes", "2", "--listen", listen) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        started = dict(line.rstrip().split(": process ") for line in lines[:4])
        assert list(started) == ["router", "node 0", "node 1", "haproxy"]
        assert lines[4] == f"the chat: http://{listen}/chat/\n"
        os.kill(int(started.pop("node 1")), signal.SIGKILL)
        said, _, again = process.stdout.readline().rstrip().partition(": process ")
        assert said == "node 1 has ended, and is started again"
        started["node 1"] = again
        process.terminate()
        assert process.communicate() == ("", "")
        assert process.returncode == 0
        for number in started.values():
            with pytest.raises(ProcessLookupError):
                os.kill(int(number), 0)


@pytest.mark.parametrize("missing", ["haproxy", "crossbar"])
def test_missing(missing: str) -> None:
    """Where a program is missing, the command says so in one line, and what to do about it."""
    programs = {"haproxy": sys.executable, "crossbar": sys.executable, missing: f"/nowhere/{missing}"}
    options = [part for name, path in programs.items() for part in (f"--{name}", path)]
    with running(*options) as process:
        said = process.communicate()
    hint = {"haproxy": "apt-get install haproxy", "crossbar": "make cluster installs it"}[missing]
    assert said == ("", f"chat.cluster: there is no /nowhere/{missing} here: {hint}\n")
    assert process.returncode == 1
