# SPDX-License-Identifier: GPL-2.0-only
"""All errors. The message of each is one line: what happened, where, and the hint.
Unexpected behaviour of a kernel is a verdict, and never one of these errors.
"""

import difflib
import errno
from collections.abc import Iterable
from typing import ClassVar


class HarnessError(Exception):
    """The base class. ``exit_code`` is the exit status of the command; ``hint`` is what to do
    about the error; ``detail`` has lines of evidence, printed below the message."""

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(HarnessError):
    """The request is wrong; another argument, file or option fixes it."""

    exit_code = 2


class PatchMismatch(UsageError):
    """A patch was made for another kernel."""


class OptionLost(UsageError):
    """A kernel cannot have an option that a fragment requests."""


class HostError(HarnessError):
    """A failure of this host: disk, network, permissions."""


class HostStarved(HostError):
    """A guest got too little CPU time of this host to be judged."""


class Unmigratable(HostError):
    """QEMU cannot save a guest with such a device, though it can boot one."""


class ToolMissing(HostError):
    """A program is not installed; `iommu-harness doctor` names its package."""


class ProgramFailed(HostError):
    """A program failed. ``output`` is the tail of its output, ``status`` its exit status."""

    def __init__(self, message: str, hint: str = "", output: str = "", status: int = 1) -> None:
        super().__init__(message, hint)
        self.output = output
        self.status = status


class BuildError(HostError):
    """The kernel did not compile; the message is the first error of the build log."""


class CommandFailed(HarnessError):
    """A command in a guest ended with a ``status`` other than 0."""

    def __init__(self, command: str, status: int, printed: str) -> None:
        super().__init__(f"{command!r} ended with status {status}: {printed}")
        self.command = command
        self.status = status


class GuestError(HarnessError):
    """A guest cannot be judged. ``log`` is the tail of the kernel's console."""

    def __init__(self, message: str, hint: str = "", log: str = "") -> None:
        super().__init__(message, hint)
        self.log = log


class GuestPanic(GuestError):
    """The kernel panicked; ``text`` is what it printed after "not syncing: "."""

    def __init__(self, text: str, log: str = "") -> None:
        super().__init__(f"the kernel panicked: {text}", log=log)
        self.text = text


class GuestHang(GuestError):
    """The guest does not answer within its limit. A slow step needs a higher limit."""


class GuestLost(GuestError):
    """The connection to the guest is lost, and it is not known that its kernel died."""


class QemuEnded(GuestLost):
    """QEMU ended without a request of the guest, killed by the host's OOM killer for example,
    which is no evidence about the kernel. The message has QEMU's own error."""


class GuestUnseen(GuestError):
    """The guest runs, but its kernel kills the process that reads its state."""


class GuestReset(GuestLost):
    """The guest shut itself down or reset itself, without a panic on its console. A kernel that
    panics before it has a console does that."""


# Causes within this host, whatever the operation: no space, memory, processes or files.
_EXHAUSTED = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
    *(errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE),
}


def is_host_trouble(error: BaseException | None) -> bool:
    """Whether the cause of the error is this host, so that it is no evidence about a kernel."""
    if isinstance(error, OSError):
        return error.errno in _EXHAUSTED
    return isinstance(error, HostError | QemuEnded | MemoryError)


def did_you_mean(word: str, words: Iterable[str], otherwise: str) -> str:
    """The hint for an unknown word: the nearest of ``words``, or ``otherwise``."""
    near = difflib.get_close_matches(word, list(words), 1)
    return f"did you mean {near[0]}?" if near else otherwise
