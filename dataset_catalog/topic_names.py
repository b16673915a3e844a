"""The table of a topic, and back: `/joint_states` ↔ `joint_states`, `/arm/left` ↔ `arm.left`.

Characters other than letters, digits, `_` and `-` become `~` and two hex digits for each byte (`/observation.state` ↔
`observation~2Estate`; S3 clients decode percent signs, and two topics would share a table). A topic without a leading
slash begins with `~~`.
"""

from __future__ import annotations

import re
from functools import lru_cache

_NO_SLASH = "~~"


@lru_cache(maxsize=4096)
def table_name(topic: str) -> str:
    """One table a topic; no two topics share one."""
    mark, rest = ("", topic[1:]) if topic.startswith("/") else (_NO_SLASH, topic)
    return (mark + "".join(_escape(character) for character in rest)) or "~"


def topic_name(table: str) -> str:
    """The topic whose table it is."""
    if table == "~":
        return "/"
    mark, rest = ("", table.removeprefix(_NO_SLASH)) if table.startswith(_NO_SLASH) else ("/", table)
    plain = rest.replace(".", "/").encode()
    return mark + re.sub(rb"~([0-9A-F]{2})", lambda found: bytes.fromhex(found[1].decode()), plain).decode()


def _escape(character: str) -> str:
    if character == "/":
        return "."
    if re.fullmatch(r"[A-Za-z0-9_-]", character):
        return character
    return "".join(f"~{byte:02X}" for byte in character.encode())
