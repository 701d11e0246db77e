# SPDX-License-Identifier: GPL-2.0-only
"""Escape untrusted text, from reports and guests, for a terminal."""

_SHOWN = {ord("\n"): "\n", ord("\t"): "\t"}


def printable(text: str) -> str:
    """Escape all control and format characters in ``text`` except newlines and tabs, because they
    could move the cursor, change colours or hide text."""
    return "".join(_character(character) for character in text)


def _character(character: str) -> str:
    if character.isprintable() or ord(character) in _SHOWN:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
