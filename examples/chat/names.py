"""
Names of people and rooms: what the server takes, and who is who among people of one name. ``page.html``
has the same rules, and cleans what its user types.
"""

import hashlib
import re
import secrets
import unicodedata

LONGEST = 32  # characters

# Control characters, halves of characters, what changes the direction of the text around it, and
# what else has no width: nobody sees it, and two names with and without it look the same.
_HIDDEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}

# Letters, marks and symbols that are blank: the rest of Unicode's Default_Ignorable_Code_Point, which
# this library's unicodedata does not know, and a Braille pattern without dots.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U000e0000-\U000e0fff]"
)

# Where some of these do something that is seen: they join emoji, or the letters of scripts behind
# U+0590, which need it, and choose between a sign and its emoji.
_JOINED = re.compile(
    "([^\0-\u058f\u200c\u200d\ufe0e\ufe0f])[\ufe0e\ufe0f]?"
    "(?:[\u200c\u200d](?=[^\0-\u058f\u200c\u200d\ufe0e\ufe0f]))?"
    "|([0-9#*])\ufe0f(?=\u20e3)|([\u00a9\u00ae])\ufe0f"
)

_PRIVATE_ID = re.compile(r"[0-9A-Za-z-]{8,64}\Z")


def name_in(text):
    """
    A name as it is shown: without spaces around it, and with single plain ones in it.

    :raises ValueError: if nobody could see it, or not all of it, or if it is longer than 32 characters.
    """
    spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in text)
    name = unicodedata.normalize("NFC", re.sub(" +", " ", spaced).strip(" "))
    seen = _JOINED.sub(r"\1\2\3", name)
    if not 0 < len(name) <= LONGEST:
        raise ValueError(f"it has no, or more than {LONGEST}, characters")
    if _BLANK.search(seen) or not _HIDDEN.isdisjoint(map(unicodedata.category, seen)):
        raise ValueError("it has characters that nobody sees")
    if unicodedata.category(name[0]).startswith("M"):
        raise ValueError("it begins with a mark that belongs on a letter")
    return name


def person_of(private_id):
    """
    What all may know of whom a private id belongs to. A client keeps that id to itself, and sends it
    whenever it enters: two windows with one id are one person, two people of one name are two.

    :param private_id: ``""``: of a client that has none, which is somebody else each time.
    :raises ValueError: if it is not an id.
    """
    if not private_id:
        return secrets.token_hex(8)
    if not _PRIVATE_ID.match(private_id):
        raise ValueError("an id has 8 to 64 letters, digits and hyphens")
    return hashlib.sha256(b"chat: " + private_id.encode("ascii")).hexdigest()[:16]
