"""
``serve --run-as``: whose privileges the server has once its ports are open.
"""

from __future__ import annotations

import os
from pwd import getpwnam, struct_passwd

from twisted.python.usage import UsageError
from twisted.python.util import switchUID

__all__ = ["drop_privileges", "user_called"]


def user_called(name: str) -> struct_passwd:
    """
    The user with a name.

    :raises UsageError: if there is no such user, or if this process may not become that user.
    """
    try:
        user = getpwnam(name)
    except (KeyError, ValueError):
        # ValueError: a NUL in the name.
        raise UsageError(f"--run-as: no user {name!r}") from None
    if os.geteuid() not in (0, user.pw_uid):
        raise UsageError(f"--run-as {name}: only root can become another user")
    return user


def drop_privileges(user: struct_passwd | None) -> None:
    """
    Become a user, with the groups of that user, for good.

    :param user: None: stay who we are.
    """
    if user is not None and os.geteuid() != user.pw_uid:
        switchUID(user.pw_uid, user.pw_gid)
