# SPDX-License-Identifier: GPL-2.0-only
"""The whole error tree. Each error is one line for the user: what happened,
where, and the hint. Unexpected kernel behaviour is a verdict, never one of these.
"""

import difflib
import errno
from collections.abc import Iterable
from typing import ClassVar


class HarnessError(Exception):
    """Base of all. ``exit_code`` is what the command ends with; ``detail`` are lines
    of evidence to show below the one line."""

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(HarnessError):
    """The request was wrong: another argument, file or option fixes it."""

    exit_code = 2


class PatchMismatch(UsageError):
    """A patch that was made for another kernel: name one that fits, or another kernel."""


class OptionLost(UsageError):
    """A kernel cannot have an option that a fragment asks for."""


class HostError(HarnessError):
    """This host could not do it: disk, network, permissions."""


class HostStarved(HostError):
    """A guest got too little of this host's processors to be judged."""


class Unmigratable(HostError):
    """QEMU cannot save a guest with such a device; it can still be booted."""


class ToolMissing(HostError):
    """A program is not installed; `iommu-harness doctor` names its package."""


class ProgramFailed(HostError):
    """A program ended with an error. ``output`` is the tail of what it printed, ``status``
    its exit status."""

    def __init__(self, message: str, hint: str = "", output: str = "", status: int = 1) -> None:
        super().__init__(message, hint)
        self.output = output
        self.status = status


class BuildError(HostError):
    """The kernel did not compile; the message is the first error of its log."""


class CommandFailed(HarnessError):
    """A command in a guest ended with a ``status`` other than 0."""

    def __init__(self, command: str, status: int, printed: str) -> None:
        super().__init__(f"{command!r} ended with status {status}: {printed}")
        self.command = command
        self.status = status


class GuestError(HarnessError):
    """A guest could not be judged. ``log`` is the tail of the kernel's console."""

    def __init__(self, message: str, hint: str = "", log: str = "") -> None:
        super().__init__(message, hint)
        self.log = log


class GuestPanic(GuestError):
    """The kernel panicked; ``text`` is what it said after "not syncing: "."""

    def __init__(self, text: str, log: str = "") -> None:
        super().__init__(f"the kernel panicked: {text}", log=log)
        self.text = text


class GuestHang(GuestError):
    """The guest stopped answering; raise the limit if the step is that slow."""


class GuestLost(GuestError):
    """The guest cannot be spoken with any more, and it is not known that its kernel died."""


class QemuEnded(GuestLost):
    """QEMU ended without the guest asking for it, as by the host's OOM killer: that says
    nothing about the kernel. QEMU's own words are in the message."""


class GuestUnseen(GuestError):
    """The guest runs, and the kernel does not let its state be looked at."""


class GuestReset(GuestLost):
    """The guest shut itself down or reset itself, without a panic on its console: one that
    panics before it has a console does that."""


# Of this host, whatever it was doing: no space, memory, processes or files.
_EXHAUSTED = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
    *(errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE),
}


def is_host_trouble(error: BaseException | None) -> bool:
    """Whether the error says something of this host, and so nothing of a kernel."""
    if isinstance(error, OSError):
        return error.errno in _EXHAUSTED
    return isinstance(error, HostError | QemuEnded | MemoryError)


def did_you_mean(word: str, words: Iterable[str], otherwise: str) -> str:
    """The hint for an unknown word: the nearest of ``words``, or ``otherwise``."""
    near = difflib.get_close_matches(word, list(words), 1)
    return f"did you mean {near[0]}?" if near else otherwise
