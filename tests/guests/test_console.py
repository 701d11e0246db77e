# SPDX-License-Identifier: GPL-2.0-only
"""The channels of a guest, on every machine and in both console modes."""

import contextlib
import hashlib
import random
import signal
from collections.abc import Callable, Iterator

import pytest

from harness.cli import shell
from harness.errors import GuestHang, GuestUnseen, UsageError
from harness.guest.guest import Guest
from harness.iommu import clients
from harness.klog import record
from harness.machine import console
from harness.plugin.plugin import GuestFactory


def test_run_separates_stdout_stderr_and_status(any_guest: Guest) -> None:
    reply = any_guest.run("echo out; echo err >&2; false")
    assert (reply.status, reply.out, reply.err) == (1, "out\n", "err\n")


def test_shell_keeps_its_directory_and_variables_between_commands(any_guest: Guest) -> None:
    any_guest.run("cd /sys/module; X='a  b'")
    assert any_guest.run('echo "$PWD $X"').out == "/sys/module a  b\n"


@pytest.mark.parametrize(
    ("command", "out"),
    [
        ("for i in 1 2\ndo echo $i\ndone", b"1\n2\n"),
        ('echo "it\'s" \'"quoted"\' \\$HOME', b'it\'s "quoted" $HOME\n'),
        ("echo ä€😀", "ä€😀\n".encode()),
        ("printf '\\001\\377\\000x'", b"\1\xff\0x"),
        ("echo no newline | tr -d '\\n'", b"no newline"),
        ("cat <<EOF\nhere\nEOF", b"here\n"),
        ("# only a comment", b""),
        ("echo O3 D ready status 0 0", b"O3 D ready status 0 0\n"),
        (
            "printf 'O99999\\nD 0123456789abcdef01234567 status 0 0\\n'",
            b"O99999\nD 0123456789abcdef01234567 status 0 0\n",
        ),
    ],
)
def test_run_passes_commands_and_output_unchanged(
    any_guest: Guest, command: str, out: bytes
) -> None:
    reply = any_guest._console.run(command)  # returns bytes
    assert (reply.how, reply.number, reply.out) == ("status", 0, out)


def test_state_does_not_depend_on_the_shell(any_guest: Guest) -> None:
    before = any_guest.state()
    any_guest.run("while :; do echo noise; sleep 0.001; done & exec >/dev/null 2>&1; set -x")
    step = any_guest.step("modprobe arm-smmu-v3")
    assert step.before == before
    assert "arm_smmu_v3" in step.after.modules


def block_reads(guest: Guest, path: str) -> None:
    """Make reads of the file block, as if a killed task held its lock."""
    guest.run(f"mkfifo /tmp/fifo; mount -o bind /tmp/fifo {path}")


def test_state_marks_group_types_that_cannot_be_read_as_unknown(any_guest: Guest) -> None:
    whole = clients.bind_all(any_guest)
    types = {number: group.type for number, group in whole.groups.items()}
    block_reads(any_guest, "/sys/kernel/iommu_groups/0/type")
    # The kernel log is busy at the same time.
    any_guest.run("while :; do echo noise; usleep 50000; done > /dev/kmsg &")
    for _ in range(2):
        found = any_guest.state()
        assert found.devices == whole.devices
        # The types of later groups are unknown too.
        assert {group.type for group in found.groups.values()} == {"?"}
    any_guest.run("umount -l /sys/kernel/iommu_groups/0/type")
    assert {number: group.type for number, group in any_guest.state().groups.items()} == types


def test_state_raises_if_its_reader_is_killed(any_guest: Guest) -> None:
    """An oops kills the state reader with SIGSEGV."""
    block_reads(any_guest, "/proc/modules")
    # The reader is a child of PID 1. Signals do not kill PID 1.
    found = "grep -l '^Name:.init' /proc/[0-9]*/status"
    kill = f"for f in $({found}); do p=${{f#/proc/}}; kill -SEGV ${{p%/status}}; done"
    # A reader that is killed before it gets a request is replaced; the loop kills the next one.
    any_guest.run(f"while :; do {kill}; usleep 100000; done & killer=$!")
    with pytest.raises(GuestUnseen, match="killed by signal 11"):
        any_guest.state()
    any_guest.run("kill $killer; umount -l /proc/modules")
    assert any_guest.state().modules == {}


def test_hung_state_reader_times_out_sooner_the_second_time(
    guest_factory: GuestFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_ANSWER_LIMIT", 2.0)
    guest = guest_factory("smmuv3", limit=4)
    block_reads(guest, "/proc/modules")
    for limit in (4, 2, 2):
        with pytest.raises(GuestHang, match=f"silent for {limit} s"):
            guest.state()
    guest.run("umount -l /proc/modules")
    assert guest.state().modules == {}
    block_reads(guest, "/proc/modules")
    with pytest.raises(GuestHang, match="silent for 4 s"):
        guest.state()


def test_a_command_sees_the_exit_status_of_the_previous_command(any_guest: Guest) -> None:
    any_guest.step("(exit 7)")
    assert any_guest.step("echo $?; (exit 3)").out == "7\n"
    any_guest.state()
    assert any_guest.run("echo $?").out == "3\n"


@contextlib.contextmanager
def repeatedly(action: Callable[[], None]) -> Iterator[None]:
    """Call ``action`` in a signal handler every 0.2 s, as ``iommu-harness shell`` handles ^C while
    a command runs."""
    before = signal.signal(signal.SIGALRM, lambda *_: action())
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def interrupted(guest: Guest, number: int) -> contextlib.AbstractContextManager[None]:
    """Send the signal repeatedly, because a signal that arrives before the command has started has
    no effect."""
    return repeatedly(lambda: guest.interrupt(number))


def test_interrupting_a_command_keeps_the_shell(any_guest: Guest) -> None:
    any_guest.run("X=kept; mkfifo /tmp/forever")
    with interrupted(any_guest, signal.SIGINT):
        reply = any_guest.run("cat /tmp/forever")
    assert (reply.killed, reply.status) == (False, 130)
    assert any_guest.run("echo $X").out == "kept\n"


def test_killing_a_loop_ends_its_shell(any_guest: Guest) -> None:
    """SIGINT would end only one iteration of the loop."""
    with interrupted(any_guest, signal.SIGKILL):
        reply = any_guest.run("while :; do sleep 1; done")
    assert (reply.killed, reply.status) == (True, 128 + signal.SIGKILL)
    assert any_guest.run("echo on").out == "on\n"


def test_second_interrupt_ends_a_loop(any_guest: Guest) -> None:
    """The first interrupt ends one iteration; a third one is raised in the harness itself."""
    log = any_guest.directory / "console-command.log"
    left = [signal.SIGINT, signal.SIGINT]

    def press() -> None:
        if left and b"begun" in log.read_bytes():
            signal.raise_signal(left.pop())

    with repeatedly(press), shell._interruptible(any_guest):
        reply = any_guest.run("echo be''gun; while :; do sleep 1; done")
    assert not left
    assert (reply.killed, reply.status) == (True, 128 + signal.SIGKILL)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("command", ["if; then", "echo 'open", "done", "(", "eval ')'"])
def test_syntax_error_keeps_the_shell(any_guest: Guest, command: str) -> None:
    any_guest.run("KEPT=1")
    reply = any_guest.run(command)
    assert (reply.killed, reply.status) == (False, 2)
    assert "syntax error" in reply.err
    assert any_guest.run("echo $KEPT").out == "1\n"


def test_a_new_shell_replaces_one_that_exits_or_is_killed(any_guest: Guest) -> None:
    assert any_guest._console.run("exit 7").how == "exited"
    reply = any_guest.run("echo before; kill -9 $$")
    assert (reply.killed, reply.status, reply.out) == (True, 128 + signal.SIGKILL, "before\n")
    assert any_guest.run("echo alive").out == "alive\n"


def test_run_returns_large_output_completely(any_guest: Guest) -> None:
    """The output is larger than any buffer between guest and host. A virtconsole would lose some
    of it; a virtserialport does not."""
    reply = any_guest.run("seq 1 200000; seq 1 50000 >&2")
    assert reply.out == "".join(f"{number}\n" for number in range(1, 200001))
    assert reply.err == "".join(f"{number}\n" for number in range(1, 50001))


def test_run_passes_a_large_command_completely(any_guest: Guest) -> None:
    text = "".join(random.Random(1).choices("abc '\"\\$#\n", k=20_000))
    quoted = "'" + text.replace("'", "'\\''") + "'"
    out = any_guest.run(f"printf %s {quoted} | sha256sum").out
    assert out.split()[0] == hashlib.sha256(text.encode()).hexdigest()


def test_background_process_does_not_block_the_command(any_guest: Guest) -> None:
    assert any_guest.run("sleep 100 & echo started").out == "started\n"
    assert any_guest.run("kill %1; echo gone").out == "gone\n"


def test_commands_can_open_dev_stdout_and_dev_stderr(any_guest: Guest) -> None:
    reply = any_guest.run("echo a >/dev/stdout; echo b >/dev/stderr; cat")
    assert (reply.out, reply.err) == ("a\n", "b\n")


def test_run_rejects_a_nul_byte_before_sending(smmuv3: Guest) -> None:
    with pytest.raises(UsageError):
        smmuv3.run("echo \0")
    assert smmuv3.run("echo on").out == "on\n"


def test_step_returns_the_kernel_messages_since_the_previous_step(any_guest: Guest) -> None:
    for word in ("one", "two"):
        step = any_guest.step(f"for i in 1 2 3; do echo {word} $i >/dev/kmsg; done")
        assert [entry.text for entry in step.kmsg] == [f"{word} {i}" for i in (1, 2, 3)]
    assert any_guest.step("true").kmsg == ()
    any_guest.run("echo between steps >/dev/kmsg")
    assert [entry.text for entry in any_guest.step("true").kmsg] == ["between steps"]


def test_kmsg_includes_messages_of_the_previous_command(any_guest: Guest) -> None:
    """The records arrive on a separate channel, possibly later than the command's result."""
    for number in range(50):
        any_guest.run(f"echo number {number} >/dev/kmsg")
        assert any_guest.kmsg()[-1].text == f"number {number}"


def test_kmsg_has_no_gaps(any_guest: Guest) -> None:
    any_guest.step("for i in $(seq 500); do echo message $i >/dev/kmsg; done")
    assert any_guest.kmsg()[0].sequence == 0
    assert record.gaps(any_guest.kmsg()) == []


def test_overwritten_kernel_messages_leave_a_gap(smmuv3: Guest) -> None:
    """One write logs the states of many tasks, more than fit into the ring buffer
    (CONFIG_LOG_BUF_SHIFT 17). They are overwritten before PID 1 can read them."""
    step = smmuv3.step("for i in $(seq 500); do sleep 1000 & done; echo t >/proc/sysrq-trigger")
    assert step.status == 0
    assert record.gaps(smmuv3.kmsg()) != []
    assert smmuv3.step("echo last >/dev/kmsg").kmsg[-1].text == "last"
