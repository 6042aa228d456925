"""
The paths that options of ``serve`` name.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

__all__ = ["is_path", "tree_segments"]


def is_path(text: str) -> bool:
    """Whether a text is the path of a URL, as far as that can be told."""
    return text.startswith("/") and not set("?#") & set(text)


def tree_segments(path: str) -> list[bytes]:
    """The segments of a path, unescaped, as ``twisted.web`` looks them up in a tree; none of ``/``."""
    return [] if path == "/" else [unquote_to_bytes(segment) for segment in path[1:].split("/")]
