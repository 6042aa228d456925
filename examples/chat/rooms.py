"""
What is said where, and who is there. Knows nothing of sockets or pages.
"""

import time
from collections import OrderedDict, deque
from itertools import islice

HISTORY = 200  # messages a room keeps
ROOMS = 100  # rooms that are kept when nobody is in them


class Room:
    """
    One room, as this process sees it.

    :ivar members: who is in it on this process; each has ``name`` and ``send(event)``.
    :ivar elsewhere: the names in it on other processes, by process.
    """

    def __init__(self, name):
        self.name = name
        self.members = set()
        self.elsewhere = {}
        self._history = OrderedDict()

    def present(self):
        names = {member.name for member in self.members}
        return sorted(names.union(*self.elsewhere.values()), key=str.lower)

    def history(self):
        return list(self._history.values())

    def add(self, message):
        """Keep a message and pass it on, once, however often it comes."""
        if message["id"] in self._history:
            return
        self._history[message["id"]] = message
        while len(self._history) > HISTORY:
            self._history.popitem(last=False)
        self._tell({"type": "message", **message})

    def tell_who_is_there(self):
        self._tell({"type": "present", "names": self.present()})

    def _tell(self, event):
        for member in list(self.members):
            member.send(event)


class Alone:
    """The engine of a chat that is one process: what is said is heard at once."""

    def start(self, rooms):
        self._rooms = rooms

    def publish(self, message):
        self._rooms.heard(message)

    def announce(self, room):
        pass


class Rooms:
    """All rooms of one process, and the engine that joins them with those of others."""

    def __init__(self, engine=None, clock=time.time):
        self._rooms = OrderedDict()
        self._clock = clock
        self._engine = engine or Alone()
        self._engine.start(self)

    def __iter__(self):
        return iter(list(self._rooms.values()))

    def get(self, name):
        if name not in self._rooms:
            self._rooms[name] = Room(name)
            self._forget_the_oldest()
        self._rooms.move_to_end(name)
        return self._rooms[name]

    def _forget_the_oldest(self):
        # A stranger may think up any number of rooms.
        empty = [room for room in self._rooms.values() if not room.members and not room.present()]
        for room in islice(empty, max(0, len(empty) - ROOMS)):
            del self._rooms[room.name]

    def enter(self, room, member):
        room.members.add(member)
        self._changed(room)

    def leave(self, room, member):
        room.members.discard(member)
        self._changed(room)

    def _changed(self, room):
        self._engine.announce(room)
        room.tell_who_is_there()

    def say(self, room, name, text, message_id):
        """Somebody here has said something; it is heard when the engine has passed it on."""
        message = {"id": message_id, "room": room.name, "name": name, "text": text}
        self._engine.publish(message | {"time": self._clock()})

    def heard(self, message):
        self.get(message["room"]).add(message)

    def elsewhere(self, process, names):
        """
        Who is where on another process.

        :param names: lists of names by room; empty when the process has gone.
        """
        for room in self:
            if room.elsewhere.pop(process, None) is not None and room.name not in names:
                room.tell_who_is_there()
        for name, present in names.items():
            room = self.get(name)
            room.elsewhere[process] = frozenset(present)
            room.tell_who_is_there()


class Queue:
    """What waits for a reader who is slower than the others."""

    def __init__(self, most):
        self._most = most
        self._waiting = deque()

    def put(self, item):
        """:return: whether there was room."""
        self._waiting.append(item)
        return len(self._waiting) <= self._most

    def take_all(self):
        while self._waiting:
            yield self._waiting.popleft()
