"""
The rooms of the chat: what is said where, who is there, and what of it is kept.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.task import Clock

from tests.kit.chatting import rooms_module

SOON = rooms_module.SOON

#: A name, and the person who has it.
Pair = tuple[str, str]


class Member:
    """Somebody who remembers what he has been sent; a person of his own, unless another is named."""

    def __init__(self, name: str, person: str = "") -> None:
        self.name = name
        self.person = person or f"{name}'s"
        self.events: list[Any] = []

    def send(self, text: str) -> None:
        self.events.append(json.loads(text))

    def names(self) -> list[list[str]]:
        return [event["names"] for event in self.events if "names" in event]

    def texts(self) -> list[str]:
        return [event["text"] for event in self.events if event["type"] == "message"]


class Engine:
    """An engine that remembers what it is to pass on, and passes nothing on by itself."""

    def __init__(self, takes: bool = True) -> None:
        self.published: list[Any] = []
        self.announced: list[tuple[str, list[Pair]]] = []
        self._takes = takes

    def start(self, rooms: Any) -> None:
        self.rooms = rooms

    def publish(self, message: Any) -> bool:
        self.published.append(message)
        return self._takes

    def announce(self, name: str, present: list[Pair]) -> None:
        self.announced.append((name, present))


def there(*names: str) -> list[list[str]]:
    """Who is on another process, as the engine brings it: pairs that have become lists."""
    return [[name, f"{name}'s"] for name in names]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def rooms(clock: Clock) -> Any:
    """The rooms of one process alone."""
    return rooms_module.Rooms(clock.callLater, clock=clock.seconds)


@pytest.fixture
def joined(clock: Clock, engine: Engine) -> Any:
    """The rooms of a process among several."""
    return rooms_module.Rooms(clock.callLater, engine, clock.seconds)


def message(number: int, text: str = "hello", room: str = "lobby", time: float = 0) -> Any:
    said = {"id": f"number-{number}", "room": room, "text": text, "time": time}
    return said | {"name": "Anna", "person": "Anna's"}


def test_say(rooms: Any, clock: Clock) -> None:
    """What is said in a room is heard by all who are in it, and by nobody else."""
    anna, bert, carl = Member("Anna"), Member("Bert"), Member("Carl")
    lobby = rooms.enter("lobby", anna)
    assert rooms.enter("lobby", bert) is lobby
    rooms.enter("kitchen", carl)
    clock.advance(7)
    assert rooms.say(lobby, anna, "hello", "number-1")
    expected = message(1, time=7)
    assert anna.events[-1] == bert.events[-1] == {"type": "message", **expected}
    assert carl.texts() == []
    assert (lobby.history(), rooms.find("kitchen").history()) == ([expected], [])


def test_left(rooms: Any) -> None:
    """Who has left hears nothing any more; leaving twice is leaving."""
    anna, bert = Member("Anna"), Member("Bert")
    lobby = rooms.enter("lobby", anna)
    rooms.enter("lobby", bert)
    rooms.leave(lobby, bert)
    rooms.leave(lobby, bert)
    rooms.say(lobby, anna, "hello", "number-1")
    assert (anna.texts(), bert.texts()) == (["hello"], [])


def test_entered(rooms: Any) -> None:
    """Who enters is told at once who is there, and what was heard last."""
    anna, bert = Member("Anna"), Member("Bert")
    lobby = rooms.enter("lobby", anna)
    rooms.say(lobby, anna, "hello", "number-1")
    rooms.enter("lobby", bert)
    alone = {"names": ["Anna"], "people": ["Anna's"], "you": "Anna's", "last": None}
    both = {"names": ["Anna", "Bert"], "people": ["Anna's", "Bert's"], "you": "Bert's"}
    assert anna.events[0] == {"type": "entered", **alone}
    assert bert.events == [{"type": "entered", **both, "last": "number-1"}]


def test_once(rooms: Any) -> None:
    """A message that comes again is neither heard nor kept again; the same id elsewhere is another."""
    anna = Member("Anna")
    lobby = rooms.enter("lobby", anna)
    for _ in range(3):
        rooms.say(lobby, anna, "hello", "number-1")
    rooms.heard(message(1, room="kitchen"))
    assert anna.texts() == ["hello"]
    assert len(lobby.history()) == len(rooms.find("kitchen").history()) == 1


def test_history_is_bounded(rooms: Any) -> None:
    """A room keeps its last messages, and knows for longer what it has heard."""
    anna = Member("Anna")
    lobby = rooms.enter("lobby", anna)
    count = rooms_module.KNOWN + 10
    for number in range(count):
        rooms.heard(message(number, str(number), time=number))
    texts = [kept["text"] for kept in lobby.history()]
    assert texts == [str(number) for number in range(count - rooms_module.HISTORY, count)]
    del anna.events[:]
    rooms.heard(message(10))
    assert anna.events == []
    rooms.heard(message(9))
    assert anna.texts() == ["hello"]


def test_history_is_in_order(rooms: Any) -> None:
    """What is heard late stands where it was said; the last one is the one that was heard last."""
    for number, time in enumerate((5, 1, 3)):
        rooms.heard(message(number, str(time), time=time))
    lobby = rooms.find("lobby")
    assert [kept["text"] for kept in lobby.history()] == ["1", "3", "5"]
    assert lobby.last() == "number-2"


def test_coming_and_going(rooms: Any, clock: Clock) -> None:
    """Those who come and go at about the same time are told of in one list."""
    anna = Member("Anna")
    lobby = rooms.enter("lobby", anna)
    clock.advance(SOON)
    crowd = [Member(f"user {n}") for n in range(5)]
    for member in crowd:
        rooms.enter("lobby", member)
    rooms.leave(lobby, crowd[0])
    clock.advance(SOON)
    assert anna.names() == [["Anna"], ["Anna"], ["Anna", *(f"user {n}" for n in range(1, 5))]]


def test_back_at_once(rooms: Any, clock: Clock) -> None:
    """Who is back at once has not been away, for the others."""
    anna, bert = Member("Anna"), Member("Bert")
    lobby = rooms.enter("lobby", anna)
    rooms.enter("lobby", bert)
    clock.advance(SOON)
    before = list(anna.events)
    rooms.leave(lobby, bert)
    rooms.enter("lobby", Member("Bert"))
    clock.advance(SOON)
    assert anna.events == before


def test_all_know_the_same(joined: Any, clock: Clock) -> None:
    """Who enters while somebody is away for a moment has the whole list a moment later."""
    anna = Member("Anna")
    joined.elsewhere("other", "lobby", there("Bert"))
    joined.enter("lobby", anna)
    clock.advance(SOON)
    joined.elsewhere("other", "lobby", there())
    carl = Member("Anna")
    joined.enter("lobby", carl)
    joined.elsewhere("other", "lobby", there("Bert"))
    clock.advance(SOON)
    assert carl.names() == [["Anna"], ["Anna", "Bert"]]


def test_same_name(rooms: Any, clock: Clock) -> None:
    """Two windows of one person are there once, until both have gone; two people of one name twice."""
    one, two, other = Member("Anna"), Member("Anna"), Member("Anna", "another's")
    lobby = rooms.enter("lobby", one)
    rooms.enter("lobby", two)
    assert two.names() == [["Anna"]]
    rooms.enter("lobby", other)
    assert other.names() == [["Anna", "Anna"]]
    assert other.events[0]["people"] == ["Anna's", "another's"]
    rooms.leave(lobby, one)
    assert lobby.names() == ["Anna", "Anna"]
    rooms.leave(lobby, two)
    assert lobby.present() == [("Anna", "another's")]
    rooms.leave(lobby, other)
    assert lobby.present() == []


def test_same_name_elsewhere(joined: Any, engine: Engine, clock: Clock) -> None:
    """People of one name on several processes are as many; somebody with a window on each is one."""
    anna = Member("Anna")
    joined.enter("lobby", anna)
    joined.elsewhere(1, "lobby", [["Anna", "Anna's"]])
    joined.elsewhere(2, "lobby", [["Anna", "another's"]])
    clock.advance(SOON)
    assert anna.names() == [["Anna"], ["Anna", "Anna"]]
    assert anna.events[-1]["people"] == ["Anna's", "another's"]
    assert engine.announced == [("lobby", [("Anna", "Anna's")])]


def test_order_of_names(rooms: Any) -> None:
    """Names are in alphabetical order, whatever their case."""
    for name in ("bert", "Carl", "Anna"):
        rooms.enter("lobby", Member(name))
    assert rooms.find("lobby").names() == ["Anna", "bert", "Carl"]


def test_rooms_are_forgotten(rooms: Any) -> None:
    """Of the rooms that nobody is in, the ones that were used last are kept; the others stay."""
    rooms.enter("mine", Member("Anna"))
    rooms.elsewhere("other", "theirs", there("Bert"))
    rooms.get("old")
    for number in range(rooms_module.ROOMS + 5):
        rooms.get(f"room {number}")
        rooms.get("used")
    kept = [room.name for room in rooms]
    assert {"mine", "theirs", "used", f"room {rooms_module.ROOMS + 4}"} < set(kept)
    assert len(kept) == rooms_module.ROOMS + 2
    assert rooms.find("old") is None
    assert rooms.find("room 0") is None


def test_asking_makes_no_room(rooms: Any) -> None:
    """A room that nobody has entered is not made by asking for it, or by hearing of its emptiness."""
    assert rooms.find("nowhere") is None
    rooms.elsewhere("other", "nowhere", there())
    rooms.gone("other")
    assert list(rooms) == []


def test_engine_passes_on(joined: Any, engine: Engine) -> None:
    """Among several processes, a message is heard when the engine brings it, and not before."""
    anna = Member("Anna")
    lobby = joined.enter("lobby", anna)
    assert joined.say(lobby, anna, "hello", "number-1")
    assert engine.published == [message(1)]
    assert anna.texts() == []
    joined.heard(message(1))
    assert anna.texts() == ["hello"]


def test_engine_that_takes_nothing(clock: Clock) -> None:
    """Who says something that the engine does not take learns of it."""
    rooms = rooms_module.Rooms(clock.callLater, Engine(takes=False), clock.seconds)
    anna = Member("Anna")
    assert not rooms.say(rooms.enter("lobby", anna), anna, "hello", "number-1")


def test_announced(joined: Any, engine: Engine, clock: Clock) -> None:
    """Other processes are told who is here, and only that, when it has changed."""
    lobby = joined.enter("lobby", Member("Anna"))
    joined.elsewhere("other", "lobby", there("Bert"))
    clock.advance(SOON)
    assert engine.announced == [("lobby", [("Anna", "Anna's")])]
    joined.elsewhere("other", "lobby", there("Bert", "Carl"))
    clock.advance(SOON)
    second = Member("Anna")
    joined.enter("lobby", second)
    clock.advance(SOON)
    assert engine.announced == [("lobby", [("Anna", "Anna's")])]
    for member in list(lobby.members):
        joined.leave(lobby, member)
    clock.advance(SOON)
    assert engine.announced == [("lobby", [("Anna", "Anna's")]), ("lobby", [])]


def test_elsewhere(joined: Any, clock: Clock) -> None:
    """Who is on other processes is there, too, until they say otherwise or are gone."""
    anna = Member("Anna")
    joined.enter("lobby", anna)
    joined.elsewhere(1, "lobby", there("Bert", "Carl"))
    joined.elsewhere(2, "lobby", there("Carl", "Anna"))
    joined.elsewhere(2, "kitchen", there("Dora"))
    clock.advance(SOON)
    assert joined.others() == {1, 2}
    joined.elsewhere(1, "lobby", there("Carl"))
    clock.advance(SOON)
    joined.gone(2)
    clock.advance(SOON)
    joined.gone(1)
    clock.advance(SOON)
    three, two = ["Anna", "Bert", "Carl"], ["Anna", "Carl"]
    assert anna.names() == [["Anna"], three, two, ["Anna"]]
    assert joined.others() == set()
    assert joined.find("kitchen").names() == []


def test_member_who_leaves_while_told(rooms: Any) -> None:
    """A member who is dropped while all are told does not keep the others from hearing it."""
    others = [Member(f"user {n}") for n in range(5)]

    class Leaving(Member):
        def send(self, text: str) -> None:
            super().send(text)
            if self.texts():
                rooms.leave(lobby, self)

    for member in (*others[:2], Leaving("gone"), *others[2:]):
        lobby = rooms.enter("lobby", member)
    rooms.heard(message(1))
    assert [member.texts() for member in others] == [["hello"]] * 5


def test_queue() -> None:
    """A queue takes so many and no more; who takes and stops leaves the rest, in order."""
    queue = rooms_module.Queue(3)
    assert [queue.put(n) for n in range(4)] == [True, True, True, False]
    taking = queue.take_all()
    assert next(taking) == 0
    assert queue.put(4)
    assert list(queue.take_all()) == [1, 2, 4]
    assert list(queue.take_all()) == []
