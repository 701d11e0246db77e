# SPDX-License-Identifier: GPL-2.0-only
"""Parse the error messages of tools: which error occurred, and what its subject is."""

import re
from dataclasses import dataclass

IN_USE, NOT_LOADED, NO_MODULE, NO_COMMAND = "in use", "not loaded", "not found", "not a command"
WRITE_FAILS, LOAD_FAILS, NO_FILE = "write fails", "load fails", "no such file"
READ_FAILS = "read fails"

_TEXTS = {
    IN_USE: "{subject} is in use",
    NOT_LOADED: "{subject} is not loaded",
    NO_MODULE: "module {subject} is not found",
}


@dataclass(frozen=True, slots=True)
class ErrorMessage:
    """The meaning of an error message.

    ``kind`` is a constant of this module or a similar text, followed by ": " and the name of the
    errno if the message contains one. ``subject`` is a module (with underscores), a path or a
    program, or "" if the message does not name it. ``holders`` are the modules that use the
    subject according to the message.
    """

    kind: str
    subject: str
    holders: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.subject:
            return self.kind
        return _TEXTS.get(self.kind, "{subject}: {kind}").format(
            subject=self.subject, kind=self.kind
        )


@dataclass(frozen=True, slots=True)
class _Wording:
    """A tool's wording for a ``kind`` of error. If the group "errno" of the ``pattern`` matches the
    text of an errno, the name of the errno is appended to the kind."""

    kind: str
    pattern: re.Pattern[str]


def _wording(kind: str, pattern: str) -> _Wording:
    return _Wording(kind, re.compile(pattern))


# The texts of strerror(3) in glibc and musl, and of moderror in busybox.
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
# The prefix of a shell's message: "bash: line 1:", "sh:", "-bash: echo:", or the path of the file
# from which the guest's shell reads commands.
_PREFIX = (
    r"(?:(?:/\S+|-?(?:ba|da|a|k|z)?sh|line \d+|eval|echo|printf|cat|\S+\.sh): ?)*(?:line \d+: )?"
)

# The path of a file. It may contain colons, as the name of a PCI device does.
_PATH = r"(?P<subject>[/.~](?:[^'\":]|:(?! ))*)"

# Programs that read files, and their errors for a file that exists.
_READER = r"cat|head|tail|grep|od|hexdump|xxd"
_READ_ERRNO = (
    r"(?P<errno>Is a directory|Input/output error|I/O error|Operation not permitted|"
    r"Invalid argument|No such device|Resource temporarily unavailable|Device or resource busy)"
)

_WORDINGS = (
    # busybox 1.35, modutils/modprobe.c and rmmod.c; older versions print no quotes.
    # With O_NONBLOCK, delete_module(2) returns EAGAIN for a module in use.
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
    # The error from delete_module(2), as kmod's rmmod without its own check and toybox print it.
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
    # dash's echo and busybox's tee print this for every errno.
    _wording(WRITE_FAILS, r"(?:\S*sh: \d+: )?echo: echo: I/O error|tee: \S+: I/O error"),
    _wording(WRITE_FAILS, rf"{_PREFIX}(?:tee: )?write error: {_ERRNO}"),
    _wording(WRITE_FAILS, rf"(?:tee: \S+|write): {_ERRNO}"),
    _wording(WRITE_FAILS, rf"dd: (?:error )?writing \S+: {_ERRNO}"),
    _wording(
        NO_FILE,
        rf"{_PREFIX}(?:\w+: )?"
        r"(?:can't (?:open|stat|create|cd to|read)|cannot (?:access|open|create|stat))? ?"
        rf"['`\"]?{_PATH}['\"]?: (?:No such file or directory|nonexistent directory)",
    ),
    _wording(
        "permission denied",
        rf"{_PREFIX}(?:\w+: )?(?:can't (?:open|stat|create)|cannot (?:access|open|create))? ?"
        rf"['`\"]?{_PATH}['\"]?: Permission denied",
    ),
    _wording(NO_FILE, rf"{_PREFIX}no such file or directory: (?P<subject>[/.~]\S*)"),
    _wording("permission denied", rf"{_PREFIX}permission denied: (?P<subject>[/.~]\S*)"),
    _wording(
        READ_FAILS, rf"(?:{_READER}): (?:read error|error reading \S+|[/.~\w][^:]*): {_READ_ERRNO}"
    ),
    _wording(NO_COMMAND, r".*?(?P<subject>[\w./-]+): (?:command )?not found"),
    _wording(NO_COMMAND, r"(?:ba|z)?sh: command not found: (?P<subject>[\w./-]+)"),
    _wording(NO_COMMAND, r"fish: Unknown command:? (?P<subject>[\w./-]+)"),
)

_MODULE_KINDS = {IN_USE, NOT_LOADED, NO_MODULE, LOAD_FAILS}
_MAX_LINE = 400
# Quotation marks that tools print in a UTF-8 locale, and that mail programs insert.
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})


def parse(line: str) -> ErrorMessage | None:
    """Parse a line of output. Returns None if it is not a known error message."""
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
        return ErrorMessage(kind, subject, _module_names(groups.get("holders") or ""))
    return None


def _module_names(text: str) -> tuple[str, ...]:
    return tuple(word.replace("-", "_") for word in re.split(r"[\s,]+", text) if word)


def same_kind(reported: ErrorMessage, observed: ErrorMessage) -> bool:
    """Whether both are the same error. A failed write without an errno matches any errno."""
    if reported.kind == WRITE_FAILS:
        return observed.kind.startswith(WRITE_FAILS)
    return _OPENING.get(reported.kind, reported.kind) == _OPENING.get(observed.kind, observed.kind)


# tee reports an error from open(2) like one from write(2); a shell words them differently.
_OPENING = {
    f"{WRITE_FAILS}: EACCES": "permission denied",
    f"{WRITE_FAILS}: ENOENT": NO_FILE,
}


def find_errno(text: str) -> str:
    """Return the name of the errno with the text that appears first in ``text``, or ""."""
    lower = text.lower()
    found = [(lower.index(words), name) for words, name in _ERRNOS.items() if words in lower]
    return min(found)[1] if found else ""


ERRNO_NAMES = frozenset(_ERRNOS.values())
