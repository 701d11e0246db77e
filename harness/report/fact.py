# SPDX-License-Identifier: GPL-2.0-only
"""What a tool's message says, whichever tool and version words it."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fact:
    """What a message says: a ``kind`` of the table below and its ``subject``, a module with
    underscores, a path or a program ("" where the message names none). ``holders`` are the
    modules that it says use the subject."""

    kind: str
    subject: str
    holders: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.subject}: {self.kind}" if self.subject else self.kind


@dataclass(frozen=True, slots=True)
class _Wording:
    """One tool's message for a fact. A named group "errno" has the error's text, which the
    kind then ends with."""

    kind: str
    pattern: re.Pattern[str]


def _wording(kind: str, pattern: str) -> _Wording:
    return _Wording(kind, re.compile(pattern))


IN_USE, NOT_LOADED, NO_MODULE, NO_COMMAND = "in use", "not loaded", "not found", "not a command"
WRITE_FAILS, LOAD_FAILS, NO_FILE = "write fails", "load fails", "no such file"
READ_FAILS = "read fails"

# As strerror(3) of glibc and musl has them, and what busybox's moderror says instead.
_ERRNOS = {
    "operation not permitted": "EPERM",
    "no such file or directory": "ENOENT",
    "nonexistent directory": "ENOENT",
    "no such process": "ESRCH",
    "interrupted system call": "EINTR",
    "input/output error": "EIO",
    "i/o error": "EIO",
    "no such device or address": "ENXIO",
    "argument list too long": "E2BIG",
    "exec format error": "ENOEXEC",
    "invalid module format": "ENOEXEC",
    "bad file descriptor": "EBADF",
    "resource temporarily unavailable": "EAGAIN",
    "try again": "EAGAIN",
    "is a directory": "EISDIR",
    "cannot allocate memory": "ENOMEM",
    "out of memory": "ENOMEM",
    "permission denied": "EACCES",
    "bad address": "EFAULT",
    "device or resource busy": "EBUSY",
    "resource busy": "EBUSY",
    "file exists": "EEXIST",
    "no such device": "ENODEV",
    "invalid argument": "EINVAL",
    "invalid parameters": "EINVAL",
    "numerical result out of range": "ERANGE",
    "result not representable": "ERANGE",
    "no space left on device": "ENOSPC",
    "operation not supported": "EOPNOTSUPP",
    "not supported": "EOPNOTSUPP",
    "function not implemented": "ENOSYS",
    "connection timed out": "ETIMEDOUT",
    "operation timed out": "ETIMEDOUT",
    "read-only file system": "EROFS",
    "unknown symbol in module, or unknown parameter": "ENOENT",
    "unknown symbol in module, or unknown parameter (see dmesg)": "ENOENT",
    "key was rejected by service": "EKEYREJECTED",
}

_NAME = r"['`\"]?(?:\S*/)?(?P<subject>[\w-]+?)(?:\.ko(?:\.[gx]z|\.zst)?)?['\"]?"
_ERRNO = r"(?P<errno>[A-Za-z][\w ,/()-]+?)\.?"
# Who says it: "bash: line 1:", "sh:", "-bash: echo:", or the file that our shell reads from.
_WHO = r"(?:(?:/\S+|-?(?:ba|da|a|k|z)?sh|line \d+|eval|echo|printf|cat|\S+\.sh): ?)*(?:line \d+: )?"

# A file; the name of a PCI device has colons.
_PATH = r"(?P<subject>[/.~](?:[^'\":]|:(?! ))*)"

# They read files; what may go wrong with one that is there.
_READER = r"cat|head|tail|grep|od|hexdump|xxd"
_READ_ERRNO = (
    r"(?P<errno>Is a directory|Input/output error|I/O error|Operation not permitted|"
    r"Invalid argument|No such device|Resource temporarily unavailable|Device or resource busy)"
)

_WORDINGS = (
    # busybox 1.35 modutils/modprobe.c and rmmod.c; older ones print no quotes.
    # EAGAIN is what delete_module(2) gives for a module in use with O_NONBLOCK.
    _wording(
        IN_USE,
        rf"(?:modprobe|rmmod): (?:can't unload|remove) (?:module )?{_NAME}: "
        r"(?:Resource temporarily unavailable|Device or resource busy)",
    ),
    # kmod 30, tools/modprobe.c and tools/rmmod.c; module-init-tools before it.
    _wording(
        IN_USE,
        rf"(?:(?:modprobe: )?FATAL|(?:rmmod: )?ERROR|rmmod: ERROR|modprobe: FATAL): Module {_NAME} "
        r"is in use(?: by:? (?P<holders>[\w, -]+))?\.?",
    ),
    # delete_module(2) itself: kmod's rmmod without its own check, and toybox.
    _wording(
        IN_USE,
        rf"(?:rmmod|modprobe): (?:ERROR: )?(?:\S+ \w+\(\) )?(?:could not remove|failed to unload) "
        rf"(?:module )?{_NAME}: "
        r"(?:Resource temporarily unavailable|Device or resource busy|Try again)",
    ),
    _wording(NO_MODULE, rf"modprobe: module {_NAME} not found in modules\.dep"),
    _wording(NO_MODULE, rf"modprobe: FATAL: Module {_NAME} not found(?: in directory \S+)?\.?"),
    _wording(NO_MODULE, rf"insmod: can't insert {_NAME}: No such file or directory"),
    _wording(NO_MODULE, rf"insmod: ERROR: could not load module {_NAME}: No such file.*"),
    _wording(NOT_LOADED, rf"rmmod: (?:can't unload|remove) (?:module )?{_NAME}: No such file.*"),
    _wording(
        NOT_LOADED, rf"(?:rmmod: )?ERROR: Module {_NAME} (?:is not currently loaded|does not .*)"
    ),
    _wording(
        LOAD_FAILS,
        rf"(?:modprobe|insmod): (?:ERROR: could not insert|can't (?:load|insert)) (?:module "
        rf")?{_NAME}"
        rf"(?: \(\S+\))?: {_ERRNO}",
    ),
    # dash's echo, and busybox's tee, say this of every errno.
    _wording(WRITE_FAILS, r"(?:\S*sh: \d+: )?echo: echo: I/O error|tee: \S+: I/O error"),
    _wording(WRITE_FAILS, rf"{_WHO}(?:tee: )?write error: {_ERRNO}"),
    _wording(WRITE_FAILS, rf"(?:tee: \S+|write): {_ERRNO}"),
    _wording(WRITE_FAILS, rf"dd: (?:error )?writing \S+: {_ERRNO}"),
    _wording(
        NO_FILE,
        rf"{_WHO}(?:\w+: )?(?:can't (?:open|stat|create|cd to|read)|cannot (?:access|open|create|"
        rf"stat))? ?"
        rf"['`\"]?{_PATH}['\"]?: (?:No such file or directory|nonexistent "
        r"directory)",
    ),
    _wording(
        "permission denied",
        rf"{_WHO}(?:\w+: )?(?:can't (?:open|stat|create)|cannot (?:access|open|create))? ?"
        rf"['`\"]?{_PATH}['\"]?: Permission denied",
    ),
    _wording(NO_FILE, rf"{_WHO}no such file or directory: (?P<subject>[/.~]\S*)"),
    _wording("permission denied", rf"{_WHO}permission denied: (?P<subject>[/.~]\S*)"),
    _wording(
        READ_FAILS, rf"(?:{_READER}): (?:read error|error reading \S+|[/.~\w][^:]*): {_READ_ERRNO}"
    ),
    _wording(NO_COMMAND, r".*?(?P<subject>[\w./-]+): (?:command )?not found"),
    _wording(NO_COMMAND, r"(?:ba|z)?sh: command not found: (?P<subject>[\w./-]+)"),
    _wording(NO_COMMAND, r"fish: Unknown command:? (?P<subject>[\w./-]+)"),
)

_MODULE_KINDS = {IN_USE, NOT_LOADED, NO_MODULE, LOAD_FAILS}
_MAX_LINE = 400
# What tools print in a UTF-8 locale, and what mail programs make of an apostrophe.
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})


def of(line: str) -> Fact | None:
    """What a line of output says, when it is one of the known wordings."""
    line = line.strip().translate(_QUOTES)
    if len(line) > _MAX_LINE:
        return None
    for wording in _WORDINGS:
        match = wording.pattern.fullmatch(line)
        if match is None:
            continue
        groups = match.groupdict()
        errno = _ERRNOS.get((groups.get("errno") or "").lower(), groups.get("errno") or "")
        kind = f"{wording.kind}: {errno}" if errno else wording.kind
        subject = (groups.get("subject") or "").strip()
        if wording.kind in _MODULE_KINDS:
            subject = subject.replace("-", "_")
        return Fact(kind, subject, _names(groups.get("holders") or ""))
    return None


def _names(text: str) -> tuple[str, ...]:
    return tuple(word.replace("-", "_") for word in re.split(r"[\s,]+", text) if word)


def same_kind(said: Fact, seen: Fact) -> bool:
    """Whether both say the same; a tool that names no errno leaves open which it was."""
    if said.kind == WRITE_FAILS:
        return seen.kind.startswith(WRITE_FAILS)
    return said.kind == seen.kind


def errno_in(text: str) -> str:
    """The name of the first errno whose text stands in it, "" for none."""
    lower = text.lower()
    found = [(lower.index(words), name) for words, name in _ERRNOS.items() if words in lower]
    return min(found)[1] if found else ""


ERRNO_NAMES = frozenset(_ERRNOS.values())
