# SPDX-License-Identifier: GPL-2.0-only
"""The exceptions of the harness. Each message is one line: what happened and where, then a hint.

Unexpected behaviour of a kernel is a verdict, not an error.
"""

import difflib
import errno
from collections.abc import Iterable
from typing import ClassVar


class HarnessError(Exception):
    """The base class of all errors.

    ``exit_code`` is the exit status of a command that fails with the error. ``hint`` is what the
    user can do about it. ``detail`` is evidence, printed below the message.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(HarnessError):
    """An error in the request, which a different argument, file or option fixes."""

    exit_code = 2


class PatchMismatch(UsageError):
    """A patch does not apply to a kernel, or is already in it."""


class OptionLost(UsageError):
    """Kconfig dropped or changed an option that a fragment requests."""


class HostError(HarnessError):
    """A failure of the host, for example of its disk, network or permissions."""


class HostStarved(HostError):
    """A guest got too little of the host's CPU time to be judged."""


class Unmigratable(HostError):
    """QEMU cannot save the guest, because one of its devices does not support migration."""


class ToolMissing(HostError):
    """A required program is not installed; see `iommu-harness doctor`."""


class ProgramFailed(HostError):
    """A program failed. ``output`` is the tail of its output, ``status`` its exit status."""

    def __init__(self, message: str, hint: str = "", output: str = "", status: int = 1) -> None:
        super().__init__(message, hint)
        self.output = output
        self.status = status


class BuildError(HostError):
    """The kernel does not compile. The message includes the error from the build log."""


class CommandFailed(HarnessError):
    """A command in a guest exited with a ``status`` other than 0."""

    def __init__(self, command: str, status: int, printed: str) -> None:
        super().__init__(f"{command!r} exited with status {status}: {printed}")
        self.command = command
        self.status = status


class GuestError(HarnessError):
    """A guest, or an operation in a guest, failed. ``log`` is the tail of the kernel's console."""

    def __init__(self, message: str, hint: str = "", log: str = "") -> None:
        super().__init__(message, hint)
        self.log = log


class GuestPanic(GuestError):
    """The kernel panicked. ``text`` is the rest of the line after "not syncing: "."""

    def __init__(self, text: str, log: str = "") -> None:
        super().__init__(f"the kernel panicked: {text}", log=log)
        self.text = text


class GuestHang(GuestError):
    """The guest did not reply within its limit. A slow step requires a higher limit."""


class GuestLost(GuestError):
    """The connection to the guest was lost, without evidence that its kernel died."""


class QemuEnded(GuestLost):
    """QEMU exited without a request from the guest, for example because the host's OOM killer
    killed it. This is not evidence about the kernel. The message includes QEMU's own error."""


class GuestUnseen(GuestError):
    """The guest runs, but its kernel killed the process that reads its state."""


class GuestReset(GuestLost):
    """The guest shut down or reset itself without a panic on its console. A kernel that panics
    before it has a console also ends like this."""


# Errors that the host causes, whatever the operation: no space, memory, processes or file
# descriptors left, or a failing or read-only disk.
_EXHAUSTED = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
    *(errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE),
}


def is_host_trouble(error: BaseException | None) -> bool:
    """Whether the host caused the error, which is then not evidence about a kernel."""
    if isinstance(error, OSError):
        return error.errno in _EXHAUSTED
    return isinstance(error, HostError | QemuEnded | MemoryError)


def did_you_mean(word: str, words: Iterable[str], otherwise: str) -> str:
    """The hint for an unknown word: the most similar of ``words``, or ``otherwise`` if none is
    similar."""
    near = difflib.get_close_matches(word, list(words), 1)
    return f"did you mean {near[0]}?" if near else otherwise
