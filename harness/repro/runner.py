# SPDX-License-Identifier: GPL-2.0-only
"""Run a report's session in a guest, step by step."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.errors import GuestError, GuestHang
from harness.guest.guest import Guest, Step
from harness.kernel.artifact import Kernel
from harness.report import commands, shell_syntax
from harness.report.commands import Command
from harness.repro import device_names, hang
from harness.repro.device_names import DeviceNames, GuestDevice

_CHANGES_DIRECTORY = re.compile(r"(?:^|[;&|({\n]\s*)(?:cd|pushd|popd)\b")

# Where to search for a directory if a prompt shows only its last component.
_DIRECTORIES = (
    "/sys/bus/*/drivers/{0} /sys/bus/*/devices/{0} /sys/module/{0} /sys/class/*/{0} /sys/kernel/{0}"
)

# A command that keeps running while the report uses another terminal is polled this many times,
# every tenth of a second. Its output is what it has printed by then.
_POLLS = 20
_BACKGROUND = """\
{{ {command}
}} >/tmp/harness-job.out 2>/tmp/harness-job.err &
for harness_poll in $(seq {polls}); do kill -0 $! 2>/dev/null || break; usleep 100000; done
cat /tmp/harness-job.out; cat /tmp/harness-job.err >&2; true"""


@dataclass(slots=True)
class Runner:
    """A runner for the commands of a session in one guest of ``kernel``.

    ``on_note`` is called with each choice that is made for the user. ``limits`` are how many
    seconds steps may be silent, by the number of the step from 0; the guest's limit applies to all
    other steps. ``hangs`` are the steps that hang, each with the description of its blocked task
    (``hang.locate``).
    """

    guest: Guest
    kernel: Kernel
    names: DeviceNames
    on_note: Callable[[str], None]
    limits: Mapping[int, float] = field(default_factory=dict)
    hangs: dict[int, str] = field(default_factory=dict)
    _directory: str = "/"

    def prepare(self, session: Sequence[Command]) -> None:
        """Find the guest's devices for the names in the session, before its first command runs.
        Raises UsageError if the guest does not have a chosen device."""
        texts = ["\n".join((each.text, *each.output)) for each in session]
        if self.names.chosen or _has_names("\n".join(texts)):
            devices = self._devices()
            device_names.check_choices(self.names.chosen, devices)
            for text in texts:
                self._learn(text, devices, must_fit=False)

    def _learn(self, text: str, devices: list[GuestDevice], *, must_fit: bool) -> None:
        for note in self.names.learn(text, devices, must_fit=must_fit):
            self.on_note(note)

    def run(self, number: int, command: Command) -> Step:
        """Run one command in the directory of its prompt, with the guest's device names.

        Raises as ``Guest.step`` does, but GuestHang only if the report does not interrupt the
        command or the command cannot be interrupted.
        """
        text = self._translate(command.text)
        self._change_directory(command.directory)
        try:
            step = self._step(text, command, self.limits.get(number))
        except GuestHang as error:
            self.hangs[number] = hang.locate(self.guest, text, self.kernel)
            if not command.interrupted:
                raise
            step = self._interrupt(text, error)
        if _CHANGES_DIRECTORY.search(text):
            self._directory = self.guest.query("pwd").strip()
        return step

    def _translate(self, text: str) -> str:
        if _has_names(text):
            self._learn(text, self._devices(), must_fit=True)
        text = shell_syntax.expand_braces(self.names.translate(text))
        return shell_syntax.expand_here_string(text)

    def _devices(self) -> list[GuestDevice]:
        return device_names.parse_listing(self.guest.query(device_names.LISTING))

    def _change_directory(self, prompt_directory: str) -> None:
        """Change to the directory in the prompt, if the guest has it."""
        directory = self.names.translate(prompt_directory)
        if not directory or directory == self._directory or directory.startswith("~"):
            return
        if directory.startswith("/"):
            target = directory
        elif self._directory.rpartition("/")[2] == directory:
            return
        else:
            pattern = _DIRECTORIES.format(shlex.quote(directory))
            target = self.guest.query(f"ls -d {pattern} 2>/dev/null").partition("\n")[0]
        if not target:
            return
        current = self.guest.query(f"cd {shlex.quote(target)} 2>/dev/null; pwd").strip()
        if current == target and not directory.startswith("/"):
            self.on_note(f"the directory {directory} in the prompt is {target}")
        self._directory = current

    def _step(self, text: str, command: Command, limit: float | None) -> Step:
        if commands.only_switches_shell(text):
            return replace(self.guest.step("true"), command=text)
        runs_on = command.interrupted or not command.ended
        if command.background or (runs_on and commands.is_endless(text)):
            in_background = _BACKGROUND.format(command=text, polls=_POLLS)
            return replace(self.guest.step(in_background), command=text)
        return self.guest.step(text, limit)

    def _interrupt(self, text: str, error: GuestHang) -> Step:
        """Interrupt a command with ^C, as in the report, and return its step. Raises ``error`` if
        the command does not end."""
        before = self.guest.state()
        self.guest.interrupt()
        try:
            after = self.guest.state()
            self.guest.run("true")
        except GuestError:
            raise error from None
        kmsg = self.guest.new_kmsg()
        return Step(text, 130, False, "", "", kmsg, before, after, self.guest.limit)


def _has_names(text: str) -> bool:
    return next(device_names.find_names(text), None) is not None
