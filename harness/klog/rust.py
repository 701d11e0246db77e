# SPDX-License-Identifier: GPL-2.0-only
"""Demangle the names of Rust functions: the v0 mangling of RFC 2603, which the kernel uses."""

import string
from collections.abc import Callable

_DIGITS = string.digits + string.ascii_lowercase + string.ascii_uppercase
_BASIC = {
    "a": "i8",
    "b": "bool",
    "c": "char",
    "d": "f64",
    "e": "str",
    "f": "f32",
    "h": "u8",
    "i": "isize",
    "j": "usize",
    "l": "i32",
    "m": "u32",
    "n": "i128",
    "o": "u128",
    "p": "_",
    "s": "i16",
    "t": "u16",
    "u": "()",
    "v": "...",
    "x": "i64",
    "y": "u64",
    "z": "!",
}
# Back references can nest and grow exponentially. No function of a kernel has this many parts.
_MAX_PARTS = 400
_DEEPEST = 60


class _MalformedError(Exception):
    """The name is not a v0 mangling, or is too complex for a function of the kernel."""


def demangled(name: str) -> str:
    """Return the path of a mangled name without hashes, for example ``<crate::Type as
    Trait>::method``. Any other name is returned unchanged."""
    if not name.startswith("_R"):
        return name
    try:
        return _Reader(name[2:].partition(".")[0]).path() or name
    except (_MalformedError, RecursionError):
        return name


class _Reader:
    """A recursive-descent parser for a mangled name without the leading ``_R``."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._parts = 0
        self._depth = 0
        self._paths: dict[str, Callable[[], str]] = {
            "C": self._name,
            "M": self._inherent,
            "X": self._implemented,
            "Y": self._trait,
            "N": self._nested,
            "I": self._generic,
        }
        self._types: dict[str, Callable[[], str]] = {
            "A": lambda: f"[{self._type()}; {self._constant()}]",
            "S": lambda: f"[{self._type()}]",
            "T": lambda: f"({', '.join(self._until_end(self._type))})",
            "R": lambda: f"&{self._borrowed()}",
            "Q": lambda: f"&mut {self._borrowed()}",
            "P": lambda: f"*const {self._type()}",
            "O": lambda: f"*mut {self._type()}",
        }

    def path(self) -> str:
        """Parse the path at the current position."""
        return self._tagged(self._paths, self.path)

    def _type(self) -> str:
        tag = self._text[self._at : self._at + 1]
        if tag in _BASIC:
            self._at += 1
            return _BASIC[tag]
        if tag in self._paths:
            return self.path()
        return self._tagged(self._types, self._type)

    def _tagged(self, readers: dict[str, Callable[[], str]], again: Callable[[], str]) -> str:
        self._parts += 1
        self._depth += 1
        if self._parts > _MAX_PARTS or self._depth > _DEEPEST:
            raise _MalformedError
        tag = self._next()
        text = self._back(again) if tag == "B" else self._reader(readers, tag)()
        self._depth -= 1
        return text

    @staticmethod
    def _reader(readers: dict[str, Callable[[], str]], tag: str) -> Callable[[], str]:
        if tag not in readers:
            raise _MalformedError
        return readers[tag]

    def _back(self, again: Callable[[], str]) -> str:
        start = self._at - 1
        target = self._number()
        if target >= start:
            raise _MalformedError
        here, self._at = self._at, target
        text = again()
        self._at = here
        return text

    def _inherent(self) -> str:
        self._skip_impl()
        return f"<{self._type()}>"

    def _implemented(self) -> str:
        self._skip_impl()
        return self._trait()

    def _trait(self) -> str:
        return f"<{self._type()} as {self.path()}>"

    def _nested(self) -> str:
        namespace, outer = self._next(), self.path()
        number = self._disambiguator()
        inner = self._identifier()
        if not namespace.isupper():
            return f"{outer}::{inner}" if inner else outer
        kind = {"C": "closure", "S": "shim"}.get(namespace, namespace)
        return f"{outer}::{{{kind}{':' if inner else ''}{inner}#{number}}}"

    def _generic(self) -> str:
        path = self.path()
        return f"{path}::<{', '.join(filter(None, self._until_end(self._argument)))}>"

    def _argument(self) -> str:
        if self._skip("L"):
            self._number()
            return ""
        return self._constant() if self._skip("K") else self._type()

    def _constant(self) -> str:
        self._type()
        value, found, _ = self._text[self._at :].partition("_")
        if not found or not set(value) <= set(string.hexdigits + "np"):
            raise _MalformedError
        self._at += len(value) + 1
        return str(int(value, 16)) if set(value) <= set(string.hexdigits) and value else "_"

    def _borrowed(self) -> str:
        if self._skip("L"):
            self._number()
        return self._type()

    def _skip_impl(self) -> None:
        """Skip the path of the module that contains an implementation."""
        self._disambiguator()
        self.path()

    def _until_end(self, each: Callable[[], str]) -> list[str]:
        found = []
        while not self._skip("E"):
            found.append(each())
        return found

    def _name(self) -> str:
        self._disambiguator()
        return self._identifier()

    def _disambiguator(self) -> int:
        return self._number() + 1 if self._skip("s") else 0

    def _identifier(self) -> str:
        self._skip("u")
        size = ""
        while self._text[self._at : self._at + 1].isdecimal() and len(size) < 4:
            size += self._next()
        self._skip("_")
        if not size or self._at + int(size) > len(self._text):
            raise _MalformedError
        self._at += int(size)
        return self._text[self._at - int(size) : self._at]

    def _number(self) -> int:
        """Parse a number in base 62 that is terminated by an underscore."""
        value, found, _ = self._text[self._at : self._at + 13].partition("_")
        if not found or not set(value) <= set(_DIGITS):
            raise _MalformedError
        self._at += len(value) + 1
        number = 0
        for digit in value:
            number = number * 62 + _DIGITS.index(digit)
        return number + 1 if value else 0

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise _MalformedError
        self._at += 1
        return self._text[self._at - 1]

    def _skip(self, tag: str) -> bool:
        found = self._text.startswith(tag, self._at)
        self._at += found
        return found
