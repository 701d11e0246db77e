# SPDX-License-Identifier: GPL-2.0-only
"""Judging claims about the output and exit status of a command."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.guest.guest import Step
from harness.guest.state import Module, State
from harness.report import error_message, session_claims
from harness.report.error_message import ErrorMessage
from harness.report.session import Session
from tests.unit.judging import BUSYBOX, IN_USE, OLD_BUSYBOX, RMMOD, command, difference, step


@pytest.mark.parametrize("line", IN_USE)
def test_parse_maps_messages_of_different_tools_to_one_fact(line: str) -> None:
    assert error_message.parse(line) == ErrorMessage("in use", "arm_smmu_v3")


@pytest.mark.parametrize("reported", IN_USE)
@pytest.mark.parametrize("seen", IN_USE)
def test_an_in_use_message_matches_the_message_of_any_other_tool(reported: str, seen: str) -> None:
    assert difference(command(reported), step(1, err=seen + "\n", refcount=2)) is None


@pytest.mark.parametrize(
    ("holders", "same"), [(("vfio",), True), (("vfio", "other"), True), ((), False)]
)
def test_modules_in_an_in_use_message_must_be_holders(holders: tuple[str, ...], same: bool) -> None:
    state = State(modules={"arm_smmu_v3": Module("arm_smmu_v3", "live", 2, holders)})
    done = replace(step(1, err=BUSYBOX), after=state)
    assert (difference(command(f"{RMMOD} by: vfio"), done) is None) is same


@pytest.mark.parametrize("text", ["sh /tmp/t.sh", "./t.sh", "bash -c 'rmmod arm_smmu_v3'", ". t"])
def test_a_scripts_status_does_not_refute_the_failure_of_one_command(text: str) -> None:
    done = replace(step(0, err=BUSYBOX, refcount=1), command=text)
    assert difference(command(RMMOD, text=text), done) is None


def test_a_forced_unload_refutes_in_use() -> None:
    """The command reloads the module, so the refcount afterwards proves nothing."""
    text = "rmmod -f arm_smmu_v3; modprobe arm_smmu_v3"
    done = replace(step(0, refcount=1), command=text)
    assert difference(command(RMMOD, text=text), done)


@pytest.mark.parametrize(
    ("reported", "same"),
    [
        ("sh: write error: Operation not permitted", True),
        ("sh: 1: echo: echo: I/O error", True),
        ("tee: /sys/x: I/O error", True),
        ("sh: write error: Input/output error", False),
        ("sh: write error: Invalid argument", False),
    ],
)
def test_a_message_without_an_errno_matches_any_errno(reported: str, same: bool) -> None:
    done = step(1, err="sh: write error: Operation not permitted\n")
    assert (difference(command(reported), done) is None) is same


def test_a_reported_errno_does_not_match_a_message_without_one() -> None:
    done = step(1, err="tee: /sys/x: I/O error\n")
    assert difference(command("tee: /sys/x: Operation not permitted"), done)


@pytest.mark.parametrize(
    ("done", "reason"),
    [
        (step(0, refcount=None), "not loaded"),
        (step(1, err=BUSYBOX, refcount=None), "not loaded"),
        (step(1, err=BUSYBOX, refcount=0), "refcount 0"),
        (step(0, err=BUSYBOX, refcount=2), "succeeds"),
    ],
)
def test_in_use_requires_a_loaded_module_a_nonzero_refcount_and_a_failed_command(
    done: Step, reason: str
) -> None:
    assert reason in (difference(command(OLD_BUSYBOX), done) or "")


def test_in_use_does_not_match_a_message_about_another_module() -> None:
    other = BUSYBOX.replace("arm-smmu-v3", "virtio-iommu")
    assert difference(command(OLD_BUSYBOX), step(1, err=other, refcount=2))


def test_a_silent_report_does_not_match_an_error_message() -> None:
    assert difference(command(), step(1, err=BUSYBOX, refcount=2)) == f"status 1, {BUSYBOX}"


@pytest.mark.parametrize(
    ("reported", "same"),
    [
        (("a", "b"), True),
        (("b", "a"), True),  # standard error first
        (("a",), False),
        (("a", "c"), False),
        (("...",), True),
        (("...", "b"), True),
        (("a", "[...]"), True),
        (("...", "c", "..."), False),
        (("[ab] (re)", "? (glob)"), True),
        (("[ab (re)", "b"), False),  # not a valid pattern
    ],
)
def test_output_matches_lines_elisions_and_patterns(reported: tuple[str, ...], same: bool) -> None:
    assert (difference(command(*reported), step(out="a\n", err="b\n")) is None) is same


@pytest.mark.parametrize(
    ("reported", "seen"),
    [
        ("cat: /x: No such file or directory", "cat: can't open '/x': No such file or directory"),
        ("bash: write error: Device or resource busy", "sh: write error: Device or resource busy"),
        ("cat: /sys/x: Is a directory", "cat: read error: Is a directory"),
        ("zsh: permission denied: /x", "sh: can't create /x: Permission denied"),
        ("zsh: no such file or directory: /x", "cat: can't open '/x': No such file or directory"),
        ("-bash: foo: command not found", "/proc/self/fd/8: eval: line 6: foo: not found"),
        ("[    3.1] arm-smmu-v3: hello", "[    0.458724] arm-smmu-v3: hello"),
    ],
)
def test_output_matches_the_same_error_from_another_tool(reported: str, seen: str) -> None:
    assert difference(command(reported), step(1, out=seen + "\n")) is None


@pytest.mark.parametrize(
    ("reported", "seen"),
    [
        ("cat: /x: No such file or directory", "cat: can't open '/y': No such file or directory"),
        ("[    3.1] one", "[    3.1] two"),
        ("...: No such device", "something else"),
    ],
)
def test_output_does_not_match_another_message(reported: str, seen: str) -> None:
    assert difference(command(reported), step(1, out=seen + "\n"))


def test_difference_reports_an_unexpected_exit_status() -> None:
    assert difference(command(status=1), step(1)) is None
    assert difference(command(status=0), step(1)) == "exit status 1"


def test_a_killed_shell_does_not_match_a_silent_report() -> None:
    assert difference(command(), step(139, killed=True))


def test_a_pattern_with_catastrophic_backtracking_matches_nothing() -> None:
    assert difference(command("(a|aa)+$ (re)"), step(out="a" * 60 + "b"))


def test_many_elisions_are_matched_without_exponential_backtracking() -> None:
    reported = command(*(["..."] * 200 + ["x"]))
    assert difference(reported, step(out="a\n" * 2000))


@given(st.lists(st.text(max_size=30), max_size=8), st.text(max_size=100))
def test_judging_hostile_output_raises_nothing(output: list[str], printed: str) -> None:
    difference(command(*output), step(out=printed))


@given(st.lists(st.text(st.characters(whitelist_categories=["L"]), min_size=1), max_size=8))
def test_output_matches_itself(lines: list[str]) -> None:
    assert difference(command(*lines), step(out="\n".join(lines))) is None


@pytest.mark.parametrize(
    ("reported", "seen"),
    [
        (
            "ls: cannot access '{0}': No such file or directory",
            "ls: {0}: No such file or directory",
        ),
        ("cat: {0}: Permission denied", "cat: can't open '{0}': Permission denied"),
    ],
)
def test_error_messages_keep_a_pci_address_in_a_path(reported: str, seen: str) -> None:
    path = "/sys/bus/pci/devices/0000:00:01.0/iommu_group"
    assert error_message.parse(reported.format(path)) == error_message.parse(seen.format(path))
    assert error_message.parse(reported.format(path)) is not None


@pytest.mark.parametrize("text", ["modprobe -r a; echo $?", "modprobe -r a | tee x"])
def test_a_compound_commands_status_does_not_refute_the_failure_of_one_part(
    text: str,
) -> None:
    done = replace(step(0, err=BUSYBOX + "\n", refcount=2), command=text)
    assert difference(command(OLD_BUSYBOX), done) is None


@pytest.mark.parametrize(
    ("path", "same"), [("/sys/kernel/iommu_groups/0/type", False), ("/tmp/type", True)]
)
def test_only_permissions_of_sysfs_attributes_must_match(path: str, same: bool) -> None:
    shown = command(f"-r--r--r--. 1 root root 4096 Nov  3 10:00 {path}", text=f"ls -l {path}")
    done = replace(
        step(out=f"-rw-r--r--    1 root     0   4096 Jan  1 00:00 {path}\n"),
        command=f"ls -l {path}",
    )
    assert (difference(shown, done) is None) is same


@pytest.mark.parametrize(
    ("reported", "same"), [("real\t0m0.911s", True), ("real\t0m40.113s", False)]
)
def test_only_a_long_duration_must_match(reported: str, same: bool) -> None:
    text = "time modprobe -r e1000e"
    shown = command(reported, "user\t0m0.001s", text=text)
    done = replace(step(err="real\t0m 0.06s\nuser\t0m 0.00s\n"), command=text)
    assert (difference(shown, done) is None) is same


@pytest.mark.parametrize(("status", "symptom"), [(0, False), (1, True)])
def test_a_status_in_the_next_prompt_must_match(status: int, symptom: bool) -> None:
    shown = replace(command(), next_status=status)
    claims = session_claims.find(Session((shown,)))
    assert any(each.kind == "status" and each.symptom is symptom for each in claims)
    assert difference(shown, step(status=status)) is None
    assert difference(shown, step(status=1 - status)) == f"exit status {1 - status}"
