"""
The messages, and who is present. This module knows nothing about sockets or pages.
"""

import json
import time
from collections import OrderedDict, deque
from itertools import islice

HISTORY = 200  # messages that a room keeps
KNOWN = 2000  # ids that a room keeps, so that a repeated message is not shown again
ROOMS = 100  # empty rooms that are kept
SOON = 0.1  # seconds for which arrivals and departures are collected before the others are told


def _sorted(present):
    return sorted(present, key=lambda who: (who[0].lower(), *who))


def _event(kind, present, **more):
    """Who is present, for the members: a list of names, and one of the persons they belong to."""
    names, people = [name for name, _ in present], [person for _, person in present]
    return {"type": kind, "names": names, "people": people, **more}


class Room:
    """
    One room, as this process sees it.

    Who is present is told by name and person, sorted: somebody with two windows is there once, two
    people of one name are there twice.

    :ivar members: the members on this process; each has a ``name``, a ``person`` (an id) and a
        ``send(text)``.
    :ivar elsewhere: who is on other processes, by process.
    :ivar told: who was present when all members were told last; None if they were told differently.
    :ivar announced: who was here when the other processes were told last.
    """

    def __init__(self, name):
        self.name = name
        self.members = set()
        self.elsewhere = {}
        self.told = self.announced = []
        self.change = None
        self._history = deque(maxlen=HISTORY)
        self._known = OrderedDict()

    def here(self):
        return _sorted({(member.name, member.person) for member in self.members})

    def present(self):
        return _sorted({*self.here()}.union(*self.elsewhere.values()))

    def names(self):
        """The names of all who are present, one for each person."""
        return [name for name, _person in self.present()]

    def history(self):
        return sorted(self._history, key=lambda message: message["time"])

    def last(self):
        """The id of the last message, or None."""
        return self._history[-1]["id"] if self._history else None

    def add(self, message):
        """Keep a message and pass it on, once, however often it arrives."""
        if message["id"] in self._known:
            return
        self._known[message["id"]] = None
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        self._history.append(message)
        self.tell({"type": "message", **message})

    def tell(self, event):
        text = json.dumps(event)
        for member in list(self.members):
            member.send(text)


class Alone:
    """The engine of a chat with a single process: a message is passed on at once."""

    def start(self, rooms):
        self._rooms = rooms

    def publish(self, message):
        """:return: whether the message was accepted; if not, send it again later."""
        self._rooms.heard(message)
        return True

    def announce(self, name, present):
        """Tell the other processes who is in a room here: pairs of a name and a person."""


class Rooms:
    """All rooms of one process, and the engine that connects them with those of the others."""

    def __init__(self, call_later, engine=None, clock=time.time):
        """
        :param call_later: a reactor's ``callLater``.
        """
        self._rooms = OrderedDict()
        self._call_later = call_later
        self._clock = clock
        self._engine = engine or Alone()
        self._engine.start(self)

    def __iter__(self):
        return iter(list(self._rooms.values()))

    def find(self, name):
        """The room of that name, or None."""
        return self._rooms.get(name)

    def get(self, name):
        """The room of that name, created if necessary."""
        if name not in self._rooms:
            self._rooms[name] = Room(name)
            self._forget_the_oldest()
        self._rooms.move_to_end(name)
        return self._rooms[name]

    def _forget_the_oldest(self):
        # A stranger can invent any number of rooms.
        empty = [room for room in self if not room.members and not room.elsewhere]
        for room in islice(empty, max(0, len(empty) - ROOMS)):
            del self._rooms[room.name]

    def enter(self, name, member):
        """
        :return: the room. The member has been told who is there, which of them it is itself, and the id
            of the last message.
        """
        room = self.get(name)
        room.members.add(member)
        self._changed(room)
        present = room.present()
        if present != room.told:
            # The members know different lists now: tell all of them, even if it is the old list.
            room.told = None
        event = _event("entered", present, you=member.person, last=room.last())
        member.send(json.dumps(event))
        return room

    def leave(self, room, member):
        room.members.discard(member)
        self._changed(room)

    def _changed(self, room):
        # If hundreds arrive at once, everybody gets one list of them all.
        if room.change is None:
            room.change = self._call_later(SOON, self._tell_who_is_there, room)

    def _tell_who_is_there(self, room):
        room.change = None
        here, present = room.here(), room.present()
        if here != room.announced:
            room.announced = here
            self._engine.announce(room.name, here)
        if present != room.told:
            room.told = present
            room.tell(_event("present", present))

    def say(self, room, member, text, message_id):
        """
        A member says something. It is shown when the engine has passed it on.

        :return: whether the engine has accepted it.
        """
        said = {"id": message_id, "room": room.name, "text": text, "time": self._clock()}
        return self._engine.publish(said | {"name": member.name, "person": member.person})

    def heard(self, message):
        """The engine has passed a message on."""
        self.get(message["room"]).add(message)

    def elsewhere(self, process, name, present):
        """Another process tells who is in a room there now."""
        if present:
            room = self.get(name)
            # On their way, pairs have become lists.
            room.elsewhere[process] = frozenset(map(tuple, present))
            self._changed(room)
        else:
            self._forget(process, self.find(name))

    def others(self):
        """The other processes that have members."""
        return {process for room in self for process in room.elsewhere}

    def gone(self, process):
        """Another process has gone, and so have its members."""
        for room in self:
            self._forget(process, room)

    def _forget(self, process, room):
        if room is not None and room.elsewhere.pop(process, None) is not None:
            self._changed(room)


class Queue:
    """What waits for a client that reads slower than the others."""

    def __init__(self, most):
        self._most = most
        self._waiting = deque()

    def put(self, item):
        """:return: whether there was room."""
        if len(self._waiting) >= self._most:
            return False
        self._waiting.append(item)
        return True

    def take_all(self):
        """Yield all items, one by one; items that are not taken stay."""
        while self._waiting:
            yield self._waiting.popleft()
