"""
``serve --workers``: a parent that opens the ports, and the processes that serve on them.

The parent accepts nothing. It starts the workers (:mod:`.worker`), replaces those that die, and tells
them over a pipe what to do. At SIGHUP it starts new ones with the options of then. Only when all of
them could listen, they do, and the old ones retire. The sockets stay open all the time, so whoever
connects waits there until some worker accepts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.python.usage import UsageError

from ... import _twisted
from ..exits import SUCCESS, USAGE, say
from ..listening import Server, is_inherited, url_of
from ..reactor import ICommandReactor
from .child import Child, ChildState, Generation
from .heartbeat import Heartbeat
from .options import ServeOptions
from .ports import ListeningReactor, Opener, RecordingReactor
from .served import DEFAULT_DRAIN, endpoints_of
from .sharing import Sharing
from .snapshots import Snapshots
from .systemd import Notifier
from .talk import Message

__all__ = ["Workers"]

_FIRST_DELAY, _LONGEST_DELAY = 0.2, 30.0
# A worker that has lived for so long is replaced at once.
_SECONDS_OF_A_LIFE = 10
# How much longer than --drain a worker may take to end.
_SECONDS_TO_END = 10
# A worker that hangs holds up a reload for no longer than that: once while the new ones start, and once
# while they take over.
_SECONDS_TO_CHANGE = 60
_TOO_LATE = f"no worker after {_SECONDS_TO_CHANGE} s"


class Workers(Server):
    """The parent: a server that leaves serving to other processes."""

    def __init__(self, reactor: ICommandReactor, options: ServeOptions, notifier: Notifier) -> None:
        """
        :raises UsageError: if an endpoint string is wrong, or if other processes cannot inherit its
            socket.
        """
        _check_inheritable(reactor, options)
        opening: Any = ListeningReactor(_twisted.adopting(reactor), _open)
        super().__init__(
            reactor,
            Factory(),
            endpoints_of(opening, options),
            url_of,
            self._end_all,
            lambda: reactor.callWhenRunning(self._start),
            notifier.stopping,
        )
        self._notifier = notifier
        self._generation = self._next = Generation(options)
        self._children: dict[Child, None] = {}
        self._calls: set[IDelayedCall] = set()
        self._late: IDelayedCall | None = None
        self._none_left: Deferred[None] | None = None
        # Those who have been told to listen, to do so no more, or to open their log anew, and have not
        # done it yet.
        self._awaited: set[Child] = set()
        self._is_announced = self._has_begun = self._is_asked_again = False
        self._snapshots = Snapshots(reactor, lambda: self._in(ChildState.SERVING, ChildState.RETIRED))
        self._sharing = Sharing(options.max_switched or None)
        self._heartbeat = Heartbeat(
            reactor,
            lambda: self._in(ChildState.BUILT, ChildState.SERVING, ChildState.RETIRED),
            notifier.watchdog,
        )

    def announce(self, port: IListeningPort) -> None:
        # Else as soon as somebody serves there; but what is said later is in twist's log.
        if not self._reactor.running:
            self._is_announced = True
            super().announce(port)

    # The workers' beginning.

    def _start(self) -> None:
        generation = self._next
        at_once = generation.options.workers or 1
        if self._has_begun:
            # To start takes a core for half a second, which those who are served meanwhile need, too.
            at_once = min(at_once, max(1, len(os.sched_getaffinity(0)) // 2))
        for _ in range(at_once):
            # There may be no room for another process, and so no reload.
            if generation is self._next:
                self._spawn(generation)

    def _spawn(self, generation: Generation) -> None:
        child = Child(generation, self._heard, self._ended, self._sharing.tell_all)
        try:
            child.start(self._reactor, self.ports)
        except OSError as error:
            self._missing(child, error.strerror or str(error))
        else:
            self._children[child] = None
            if generation.serves:
                self._later(_SECONDS_TO_CHANGE, lambda: self._must_be_built(child))

    def _in(self, *states: ChildState) -> list[Child]:
        return [child for child in self._children if child.state in states]

    def _of(self, generation: Generation, *states: ChildState) -> list[Child]:
        return [child for child in self._in(*states) if child.generation is generation]

    def _must_be_built(self, child: Child) -> None:
        if child.state is ChildState.STARTING and child in self._children:
            child.kill(f"it was not ready after {_SECONDS_TO_CHANGE} s")

    def _heard(self, child: Child, message: Message) -> None:
        child.unanswered = 0
        if message["say"] == "wrong":
            child.why = message["why"]
            child.kill()
        elif message["say"] == "done":
            self._done(child)
        elif message["say"] == "built":
            self._built(child)
        elif message["say"] == "used":
            self._sharing.report(child, message)
        elif message["say"] == "ask":
            self._snapshots.ask(child)
        elif message["say"] == "snapshot":
            self._snapshots.heard(child, message["snapshot"])
        elif message["say"] == "ending":
            self._snapshots.heard(child, message["snapshot"])
            child.say("farewell")

    def _built(self, child: Child) -> None:
        child.state = ChildState.BUILT
        generation = child.generation
        self._sharing.join(child)
        if generation.serves:
            child.listen()
            return
        wanted = generation.options.workers or 1
        built = len(self._of(generation, ChildState.BUILT))
        if built == wanted:
            self._change_to(generation)
        elif self._has_begun:
            self._be_in_time(generation)
            if built + len(self._of(generation, ChildState.STARTING)) < wanted:
                self._spawn(generation)

    def _change_to(self, generation: Generation) -> None:
        """These workers serve from now on, in place of those that did."""
        before = list(self._children)
        self._generation = generation
        generation.serves = True
        self._sharing.set_most(generation.options.max_switched or None, generation)
        self._cancel_calls()
        self._be_in_time(generation)
        for child in self._of(generation, ChildState.BUILT):
            child.listen()
            self._awaited.add(child)
        for child in before:
            if child.generation is not generation:
                self._retire(child, generation.options.retire)

    def _done(self, child: Child) -> None:
        """A worker has done what it was told. When all have, it is said."""
        if child not in self._awaited:
            return
        self._awaited.remove(child)
        if not self._awaited and self._none_left is None:
            self._has_changed()

    def _be_in_time(self, generation: Generation) -> None:
        """Wait no longer than for a while for what these workers do next."""
        if self._late is not None and self._late.active():
            self._late.cancel()
            self._calls.discard(self._late)
        self._late = self._later(_SECONDS_TO_CHANGE, lambda: self._is_late(generation))

    def _is_late(self, generation: Generation) -> None:
        """Somebody does not answer: it is not waited for any more."""
        if not generation.serves:
            self._give_up(generation, _TOO_LATE)
        elif self._awaited:
            self._awaited.clear()
            self._has_changed()

    def _has_changed(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            for _, port in [] if self._is_announced else self.ports:
                super().announce(port)
        else:
            opened = [description for description, _ in self.ports]
            is_elsewhere = self._generation.options.listen not in ([], opened)
            moved = "; what --listen says now takes effect at the next start"
            say(f"has reloaded its options{moved if is_elsewhere else ''}")
        self._settled()

    def _retire(self, child: Child, seconds: float | None) -> None:
        if child.state is ChildState.SERVING:
            child.retire(seconds)
            self._sharing.retire(child)
        elif child.state is ChildState.RETIRED:
            # It may last for long, and its access log may have been moved since.
            child.say("reopen")
        else:
            child.drop()
            return
        self._awaited.add(child)

    def _settled(self) -> None:
        self._notifier.ready()
        self._heartbeat.start()
        if self._is_asked_again:
            self._is_asked_again = False
            self.reload()

    # Their end.

    def _ended(self, child: Child, how: str) -> None:
        self._children.pop(child, None)
        self._done(child)
        self._sharing.leave(child)
        self._snapshots.leave(child)
        if self._none_left is not None:
            if not self._children:
                self._none_left.callback(None)
        elif child.state is ChildState.RETIRED:
            if how != "exit code 0":
                say(f"a worker that had retired has died ({how})")
        elif child.state is not ChildState.DROPPED:
            self._missing(child, child.why or how)

    def _missing(self, child: Child, why: str) -> None:
        """A worker is not there that should be."""
        generation = child.generation
        if self._code != SUCCESS:
            # What is wrong is reported once, whichever worker has found it.
            pass
        elif generation is not self._generation:
            self._give_up(generation, why)
        elif child.why and not generation.serves:
            say(f"serve: {why}")
            self._code = USAGE
            with suppress(ReactorNotRunning):
                self._reactor.stop()
        else:
            delay = self._delay(child)
            when = f" in {delay:g} s" if delay else ""
            say(f"a worker has died ({why}); another one starts{when}")
            self._later(delay, lambda: self._spawn(generation))

    def _delay(self, child: Child) -> float:
        generation = child.generation
        if self._reactor.seconds() - child.began >= _SECONDS_OF_A_LIFE:
            generation.deaths = 0
            return 0
        generation.deaths += 1
        # 2.0, since mypy takes a power of 2 for anything.
        return min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(generation.deaths - 1, 10))

    def _later(self, delay: float, do: Callable[[], None]) -> IDelayedCall:
        def run() -> None:
            self._calls.discard(call)
            do()

        call = self._reactor.callLater(delay, run)
        self._calls.add(call)
        return call

    def _cancel_calls(self) -> None:
        for call in self._calls:
            call.cancel()
        self._calls.clear()

    # SIGHUP.

    def reload(self) -> None:
        """Start workers with the options of now; they take over when all of them can serve."""
        if not self.running or self._none_left is not None:
            return
        if self._next is not self._generation or self._awaited or not self._has_begun:
            self._is_asked_again = True
            return
        self._notifier.reloading()
        try:
            options = self._generation.options.again()
        except UsageError as error:
            self._not_reloaded(str(error))
            return
        options.workers = options.workers or self._generation.options.workers
        self._next = generation = Generation(options)
        self._be_in_time(generation)
        self._start()

    def _give_up(self, generation: Generation, why: str) -> None:
        """Workers with new options cannot serve: the old ones go on."""
        if generation is self._next:
            self._next = self._generation
            for child in self._of(generation, ChildState.STARTING, ChildState.BUILT):
                child.drop()
            self._not_reloaded(why)

    def _not_reloaded(self, why: str) -> None:
        say(f"not reloaded, nothing changed: {why}")
        self._settled()

    # SIGTERM.

    def _end_all(self) -> Deferred[None]:
        self._cancel_calls()
        self._heartbeat.stop()
        if not self._children:
            return succeed(None)
        self._none_left = Deferred()
        drain = self._generation.options.drain
        seconds = DEFAULT_DRAIN if drain is None else drain
        late = self._reactor.callLater(seconds + _SECONDS_TO_END, self._kill_all)
        for child in self._children:
            child.stop()
        return self._none_left.addCallback(lambda _: late.cancel() if late.active() else None)

    def _kill_all(self) -> None:
        for child in self._children:
            child.kill()


def _open(_: IProtocolFactory, opener: Opener) -> IListeningPort:
    """Open a port for the workers."""
    port = opener()
    _twisted.share_port(port)
    return port


def _check_inheritable(reactor: ICommandReactor, options: ServeOptions) -> None:
    recording: Any = RecordingReactor(reactor)
    for description, endpoint in endpoints_of(recording, options):
        if not is_inherited(description) and recording.asked_by(endpoint, Factory()) is None:
            raise UsageError(
                f"--workers: they cannot inherit a socket from {description!r}, as from tcp:, ssl:, "
                "unix: and systemd: endpoints"
            )
