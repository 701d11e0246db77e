# SPDX-License-Identifier: GPL-2.0-only
"""Text from reports and guests, made fit for a terminal."""

_SHOWN = {ord("\n"): "\n", ord("\t"): "\t"}


def printable(text: str) -> str:
    """``text`` with every control and format character written out, so that
    nothing untrusted moves the cursor, changes colours or hides."""
    return "".join(_character(character) for character in text)


def _character(character: str) -> str:
    if character.isprintable() or ord(character) in _SHOWN:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
