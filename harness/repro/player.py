# SPDX-License-Identifier: GPL-2.0-only
"""Types a report's session into a guest, step by step."""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from harness.errors import GuestError, GuestHang
from harness.guest.guest import Guest, Step
from harness.kernel.artifact import Kernel
from harness.report import context
from harness.report.part import Command
from harness.repro import hang, names
from harness.repro.names import Entry, Names

_CHANGES_DIRECTORY = re.compile(r"(?:^|[;&|({\n]\s*)(?:cd|pushd|popd)\b")

# What a command may use of a directory that a prompt names by its last part only.
_PLACES = (
    "/sys/bus/*/drivers/{0} /sys/bus/*/devices/{0} /sys/module/{0} /sys/class/*/{0} /sys/kernel/{0}"
)

# A command that goes on while the report turns to another terminal is waited for by so many
# looks of a tenth of a second; what it has printed by then is its output.
_LOOKS = 20
_BACKGROUND = """\
{{ {command}
}} >/tmp/harness-job.out 2>/tmp/harness-job.err &
for harness_look in $(seq {looks}); do kill -0 $! 2>/dev/null || break; usleep 100000; done
cat /tmp/harness-job.out; cat /tmp/harness-job.err >&2; true"""


@dataclass(slots=True)
class Player:
    """Types commands into one guest of ``kernel``. ``names`` are the devices' names,
    ``on_note`` is called with what was chosen on the way. ``hangs`` are the steps, from 0,
    that did not end, with where their task waits."""

    guest: Guest
    kernel: Kernel
    names: Names
    on_note: Callable[[str], None]
    hangs: dict[int, str] = field(default_factory=dict)
    _directory: str = "/"

    def start(self, commands: Sequence[Command]) -> None:
        """Before the first command. Raises UsageError for a choice of a device that the
        guest does not have."""
        text = "\n".join(part for each in commands for part in (each.text, *each.output))
        if self.names.chosen or any(True for _ in names.names_in(text)):
            devices = self._devices()
            names.check(self.names.chosen, devices)
            for each in commands:
                self._learn("\n".join((each.text, *each.output)), devices, runs=False)

    def _learn(self, text: str, devices: list[Entry], *, runs: bool) -> None:
        for note in self.names.learn(text, devices, runs=runs):
            self.on_note(note)

    def play(self, number: int, command: Command) -> Step:
        """Types one command, with the guest's names of devices, where its prompt is.

        Raises as ``Guest.step`` does; for a command that hangs only where nothing ends it.
        """
        text = self._translated(command.text)
        self._go_to(command.directory)
        try:
            step = self._step(text, command)
        except GuestHang as error:
            self.hangs[number] = hang.where(self.guest, text, self.kernel)
            if not command.interrupted:
                raise
            step = self._interrupted(text, error)
        if _CHANGES_DIRECTORY.search(text):
            self._directory = self._printed("pwd").strip()
        return step

    def _translated(self, text: str) -> str:
        if any(True for _ in names.names_in(text)):
            self._learn(text, self._devices(), runs=True)
        return self.names.translate(text)

    def _devices(self) -> list[Entry]:
        return names.entries(self._printed(names.LISTING))

    def _printed(self, command: str) -> str:
        """What a question of ours prints; the next command finds $? as it was."""
        reply = self.guest.run(f"harness_kept=$?; {command}; harness_last $harness_kept")
        return reply.out

    def _go_to(self, directory: str) -> None:
        """Where the prompt says that the command is typed."""
        wanted = self.names.translate(directory)
        if not wanted or wanted == self._directory or wanted.startswith("~"):
            return
        if wanted.startswith("/"):
            target = wanted
        elif self._directory.rpartition("/")[2] == wanted:
            return
        else:
            pattern = _PLACES.format(shlex.quote(wanted))
            target = self._printed(f"ls -d {pattern} 2>/dev/null").partition("\n")[0]
        if not target:
            return
        here = self._printed(f"cd {shlex.quote(target)} 2>/dev/null; pwd").strip()
        if here == target and not wanted.startswith("/"):
            self.on_note(f"the prompt's {wanted} is {target}")
        self._directory = here

    def _step(self, text: str, command: Command) -> Step:
        if context.only_moves_shell(text):
            return replace(self.guest.step("true"), command=text)
        goes_on = command.interrupted or not command.ended
        if command.background or (goes_on and context.is_endless(text)):
            wrapped = _BACKGROUND.format(command=text, looks=_LOOKS)
            return replace(self.guest.step(wrapped), command=text)
        return self.guest.step(text)

    def _interrupted(self, text: str, error: GuestHang) -> Step:
        """The step of a command that ^C ends, as in the report. Raises the ``error`` where ^C
        does not."""
        before = self.guest.state()
        self.guest.interrupt()
        try:
            after = self.guest.state()
            self.guest.run("true")
        except GuestError:
            raise error from None
        kmsg = self.guest.new_kmsg()
        return Step(text, 130, False, "", "", kmsg, before, after, self.guest.limit)
