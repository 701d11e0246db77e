# SPDX-License-Identifier: GPL-2.0-only
"""Claims about what a command prints and ends with."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.guest.guest import Step
from harness.guest.state import Module, State
from harness.report import claim, fact
from harness.report.fact import Fact
from harness.report.session import Session
from tests.unit.judging import BUSYBOX, IN_USE, OLD_BUSYBOX, RMMOD, command, difference, step


@pytest.mark.parametrize("line", IN_USE)
def test_one_fact_in_many_words(line: str) -> None:
    assert fact.of(line) == Fact("in use", "arm_smmu_v3")


@pytest.mark.parametrize("reported", IN_USE)
@pytest.mark.parametrize("seen", IN_USE)
def test_words_of_one_tool_match_those_of_another(reported: str, seen: str) -> None:
    assert difference(command(reported), step(1, err=seen + "\n", refcount=2)) is None


@pytest.mark.parametrize(
    ("holders", "same"), [(("vfio",), True), (("vfio", "other"), True), ((), False)]
)
def test_who_uses_a_module_is_said_by_its_holders(holders: tuple[str, ...], same: bool) -> None:
    state = State(modules={"arm_smmu_v3": Module("arm_smmu_v3", "live", 2, holders)})
    done = replace(step(1, err=BUSYBOX), after=state)
    assert (difference(command(f"{RMMOD} by: vfio"), done) is None) is same


@pytest.mark.parametrize("text", ["sh /tmp/t.sh", "./t.sh", "bash -c 'rmmod arm_smmu_v3'", ". t"])
def test_the_status_of_a_script_says_nothing_about_its_parts(text: str) -> None:
    done = replace(step(0, err=BUSYBOX, refcount=1), command=text)
    assert difference(command(RMMOD, text=text), done) is None


def test_a_part_of_a_command_that_is_not_refused_is_not_in_use() -> None:
    """Reloaded, the module may have a refcount all the same."""
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
def test_a_tool_that_names_no_errno_leaves_it_open(reported: str, same: bool) -> None:
    done = step(1, err="sh: write error: Operation not permitted\n")
    assert (difference(command(reported), done) is None) is same


def test_an_errno_that_the_guest_does_not_name_is_not_seen() -> None:
    done = step(1, err="tee: /sys/x: I/O error\n")
    assert difference(command("tee: /sys/x: Operation not permitted"), done)


@pytest.mark.parametrize(
    ("done", "instead"),
    [
        (step(0, refcount=None), "not loaded"),
        (step(1, err=BUSYBOX, refcount=None), "not loaded"),
        (step(1, err=BUSYBOX, refcount=0), "refcount 0"),
        (step(0, err=BUSYBOX, refcount=2), "succeeds"),
    ],
)
def test_what_happened_counts_and_not_the_words(done: Step, instead: str) -> None:
    assert instead in (difference(command(OLD_BUSYBOX), done) or "")


def test_a_fact_about_another_module_is_another_fact() -> None:
    other = BUSYBOX.replace("arm-smmu-v3", "virtio-iommu")
    assert difference(command(OLD_BUSYBOX), step(1, err=other, refcount=2))


def test_output_that_the_report_does_not_show_differs() -> None:
    assert difference(command(), step(1, err=BUSYBOX, refcount=2)) == f"status 1, {BUSYBOX}"


@pytest.mark.parametrize(
    ("wanted", "same"),
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
        (("[ab (re)", "b"), False),  # not a pattern
    ],
)
def test_text(wanted: tuple[str, ...], same: bool) -> None:
    assert (difference(command(*wanted), step(out="a\n", err="b\n")) is None) is same


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
def test_what_a_machine_or_a_tool_words_otherwise(reported: str, seen: str) -> None:
    assert difference(command(reported), step(1, out=seen + "\n")) is None


@pytest.mark.parametrize(
    ("reported", "seen"),
    [
        ("cat: /x: No such file or directory", "cat: can't open '/y': No such file or directory"),
        ("[    3.1] one", "[    3.1] two"),
        ("...: No such device", "something else"),
    ],
)
def test_what_is_not_the_same(reported: str, seen: str) -> None:
    assert difference(command(reported), step(1, out=seen + "\n"))


def test_status() -> None:
    assert difference(command(status=1), step(1)) is None
    assert difference(command(status=0), step(1)) == "exit status 1"


def test_a_killed_shell_always_differs() -> None:
    assert difference(command(), step(139, killed=True))


def test_a_pattern_made_to_take_forever_matches_nothing() -> None:
    assert difference(command("(a|aa)+$ (re)"), step(out="a" * 60 + "b"))


def test_many_elisions_do_not_explode() -> None:
    wanted = command(*(["..."] * 200 + ["x"]))
    assert difference(wanted, step(out="a\n" * 2000))


@given(st.lists(st.text(max_size=30), max_size=8), st.text(max_size=100))
def test_hostile_output_never_breaks_it(output: list[str], printed: str) -> None:
    difference(command(*output), step(out=printed))


@given(st.lists(st.text(st.characters(whitelist_categories=["L"]), min_size=1), max_size=8))
def test_the_same_text_matches_itself(lines: list[str]) -> None:
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
def test_a_path_with_the_name_of_a_pci_device_is_one(reported: str, seen: str) -> None:
    path = "/sys/bus/pci/devices/0000:00:01.0/iommu_group"
    assert fact.of(reported.format(path)) == fact.of(seen.format(path))
    assert fact.of(reported.format(path)) is not None


@pytest.mark.parametrize("text", ["modprobe -r a; echo $?", "modprobe -r a | tee x"])
def test_the_status_of_a_compound_command_says_nothing_about_its_part(text: str) -> None:
    done = replace(step(0, err=BUSYBOX + "\n", refcount=2), command=text)
    assert difference(command(OLD_BUSYBOX), done) is None


@pytest.mark.parametrize(
    ("path", "same"), [("/sys/kernel/iommu_groups/0/type", False), ("/tmp/type", True)]
)
def test_what_may_be_done_with_an_attribute_is_the_kernels(path: str, same: bool) -> None:
    wanted = command(f"-r--r--r--. 1 root root 4096 Nov  3 10:00 {path}", text=f"ls -l {path}")
    done = replace(
        step(out=f"-rw-r--r--    1 root     0   4096 Jan  1 00:00 {path}\n"),
        command=f"ls -l {path}",
    )
    assert (difference(wanted, done) is None) is same


@pytest.mark.parametrize(
    ("reported", "same"), [("real\t0m0.911s", True), ("real\t0m40.113s", False)]
)
def test_a_command_that_takes_long_only_there(reported: str, same: bool) -> None:
    text = "time modprobe -r e1000e"
    wanted = command(reported, "user\t0m0.001s", text=text)
    done = replace(step(err="real\t0m 0.06s\nuser\t0m 0.00s\n"), command=text)
    assert (difference(wanted, done) is None) is same


@pytest.mark.parametrize(("status", "symptom"), [(0, False), (1, True)])
def test_a_status_that_a_prompt_shows(status: int, symptom: bool) -> None:
    wanted = replace(command(), next_status=status)
    claims = claim.of_session(Session((wanted,)))
    assert any(each.kind == "status" and each.symptom is symptom for each in claims)
    assert difference(wanted, step(status=status)) is None
    assert difference(wanted, step(status=1 - status)) == f"exit status {1 - status}"
