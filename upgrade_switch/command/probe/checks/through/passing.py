"""How a function becomes a check of a proxy."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from ...farside import Far
from ...passage import Passage
from ...subject import Subject
from ...wire import Wire
from ..check import Group, Level, Skipped

__all__ = ["early", "only_websocket", "through"]


def through(
    group: Group, name: str, level: Level, section: str, *, needs_upgrade: bool = True
) -> Callable[[Callable[[Passage], None]], Callable[[Passage], None]]:
    """
    Make a function a check of this group, as :meth:`Group.check` does, which is given a proxy with a
    far side where the function's requests arrive.

    :param needs_upgrade: whether it is skipped if the proxy does not pass upgrades to the token.
    """

    def add(run: Callable[[Passage], None]) -> Callable[[Passage], None]:
        @group.check(name, level, section, needs_upgrade=needs_upgrade)
        @wraps(run)
        def checked(subject: Subject) -> None:
            assert isinstance(subject, Passage)
            with subject.begun() as proxy:
                run(proxy)

        return run

    return add


def only_websocket(proxy: Passage) -> None:
    """
    :raises Skipped: if the token is another one.
    """
    if not proxy.is_websocket:
        raise Skipped("it is only for WebSocket")


def early(proxy: Passage, near: Wire) -> Far:
    """
    Wait for a request with early bytes.

    :raises Skipped: if the proxy refuses it: then none of them is lost.
    """
    far = proxy.may_arrive(near)
    if far is None:
        raise Skipped(f"the proxy refuses early bytes: {proxy.refused(near)}")
    return far
