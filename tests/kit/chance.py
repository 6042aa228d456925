"""How much of what is random is tried."""

import os


def examples(number: int) -> int:
    """
    :param number: how many examples show what a test says; as many are tried in CI.
    :return: a third of that elsewhere, where a person waits; each run has others.
    """
    return number if os.environ.get("CI") else number // 3
