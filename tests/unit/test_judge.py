# SPDX-License-Identifier: GPL-2.0-only
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import GuestLost, GuestPanic
from harness.guest.guest import Step
from harness.guest.state import Module, State
from harness.kernel.artifact import Kernel
from harness.klog import splat
from harness.klog.record import Record
from harness.report import claim, fact
from harness.report.claim import Claim
from harness.report.fact import Fact
from harness.report.part import Command
from harness.report.session import Session
from harness.repro import judge, verdict
from harness.repro.names import Names
from harness.repro.replayed import Judgement, Replayed
from harness.repro.verdict import Verdict

OLD_BUSYBOX = "modprobe: can't unload module arm_smmu_v3: Resource temporarily unavailable"
BUSYBOX = "modprobe: can't unload module 'arm-smmu-v3': Resource temporarily unavailable"
KMOD = "modprobe: FATAL: Module arm_smmu_v3 is in use."
RMMOD = "rmmod: ERROR: Module arm_smmu_v3 is in use"
LIBKMOD = (
    "rmmod: ERROR: ../libkmod/libkmod-module.c:854 kmod_module_remove_module() "
    "could not remove 'arm_smmu_v3': Resource temporarily unavailable"
)
RMMOD_TRIES = "rmmod: ERROR: could not remove module arm_smmu_v3: Resource temporarily unavailable"
TOYBOX = "rmmod: failed to unload arm_smmu_v3: Try again"
IN_USE = [OLD_BUSYBOX, BUSYBOX, KMOD, RMMOD, LIBKMOD, RMMOD_TRIES, TOYBOX]


def with_refcount(refcount: int | None) -> State:
    if refcount is None:
        return State()
    return State(modules={"arm_smmu_v3": Module("arm_smmu_v3", "live", refcount, ())})


def step(
    status: int = 0,
    out: str = "",
    err: str = "",
    kmsg: tuple[str, ...] = (),
    refcount: int | None = None,
    killed: bool = False,
) -> Step:
    records = tuple(Record(6, number, 0.0, text) for number, text in enumerate(kmsg))
    state = with_refcount(refcount)
    return Step("x", status, killed, out, err, records, state, state, 0.001)


def command(*output: str, status: int | None = None, text: str = "x") -> Command:
    return Command(text, output, status, 1, tuple(range(2, 2 + len(output))))


KERNEL = Kernel("key", "debian:6.12", "6.12.117", "gcc", Path("/nonexistent"))


def judged(
    commands: list[Command],
    steps: list[Step],
    error: GuestPanic | GuestLost | None = None,
    hangs: dict[int, str] | None = None,
    claims: list[Claim] | None = None,
) -> list[Judgement]:
    done = Replayed(
        tuple(commands),
        tuple(steps),
        tuple(splat.find([record.text for step in steps for record in step.kmsg])),
        error,
        KERNEL,
        Names("", "arm_smmu_v3"),
        hangs or {},
    )
    return judge.judge(claims or claim.of_session(Session(tuple(commands))), done)


def verdict_of(
    commands: list[Command], steps: list[Step], error: GuestPanic | GuestLost | None = None
) -> Verdict:
    return verdict.judge(judged(commands, steps, error))


def difference(wanted: Command, done: Step) -> str | None:
    """Why the first claim of the command that decides does not hold, None where all do."""
    found = judged([wanted], [done])
    return next((each.reason for each in found if each.held is False and each.claim.judges), None)


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


REMOVED = [command(text="rmmod arm_smmu_v3 2>&-"), command("one 4096 0", text="lsmod")]


@pytest.mark.parametrize(("refcount", "expected"), [(None, True), (1, False)])
def test_a_list_without_a_module_says_that_it_is_gone(refcount: int | None, expected: bool) -> None:
    found = judged(REMOVED, [step(1), step(refcount=refcount)])
    (gone,) = [each for each in found if "does not show" in each.claim.text]
    assert gone.claim.symptom
    assert gone.held is expected


@pytest.mark.parametrize(
    "commands",
    [
        [command("one 4096 0", text="lsmod")],
        [REMOVED[0], command("one 4096 0", text="lsmod | head -2")],
        [REMOVED[0], command("one 4096 0", "...", text="lsmod")],
        [REMOVED[0], command(text="modprobe arm-smmu-v3"), REMOVED[1]],
    ],
)
def test_a_part_of_a_list_says_nothing_of_other_modules(commands: list[Command]) -> None:
    texts = [each.text for each in claim.of_session(Session(tuple(commands)))]
    assert not any("does not show" in text for text in texts)


def warning(comm: str) -> tuple[str, ...]:
    return (
        "------------[ cut here ]------------",
        "WARNING: CPU: 0 PID: 35 at drivers/iommu/iommu.c:634 some_function+0x70/0xa8",
        f"CPU: 0 UID: 0 PID: 35 Comm: {comm} Not tainted 6.12.117 #1",
        "pc : some_function+0x70/0xa8",
        "lr : some_function+0x38/0xa8",
        "Call trace:",
        " some_function+0x70/0xa8",
        "---[ end trace 0000000000000000 ]---",
    )


@pytest.mark.parametrize(
    ("place", "comm", "same"),
    [(0, "rmmod", True), (1, "rmmod", True), (2, "rmmod", False), (2, "kworker/0:1", True)],
)
def test_a_splat_does_not_come_after_the_step_that_shows_it(
    place: int, comm: str, same: bool
) -> None:
    shown = command(*(f"[    6.1] {line}" for line in warning("rmmod")))
    steps = [step(kmsg=warning(comm) if number == place else ()) for number in range(3)]
    found = judged([command(), shown, command()], steps)
    assert [each.held for each in found if each.claim.kind == "splat"] == [same]


ADDED = "[    1.5] e1000e 0000:00:01.0: Adding to iommu group 0"


@pytest.mark.parametrize(
    ("text", "reported", "same"),
    [
        ("dmesg | grep 'iommu group'", (ADDED, ADDED), True),
        ("dmesg | grep 'iommu group'", (ADDED,), False),
        ("dmesg | grep 'iommu group'", (ADDED, "..."), True),
        ("dmesg | grep 'iommu group' | tail -1", (ADDED,), True),
        ("dmesg", (ADDED,), True),
    ],
)
def test_messages_that_are_looked_for_come_as_often(
    text: str, reported: tuple[str, ...], same: bool
) -> None:
    done = replace(step(out=f"{ADDED}\n{ADDED}\n[ 2.0] other\n"), command=text)
    assert (difference(command(*reported, text=text), done) is None) is same


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


def test_kernel_messages_match_without_time() -> None:
    done = step(kmsg=("one", "two", "three"))
    assert difference(command("[   12.345678] one", "[   13.000000] three"), done) is None
    assert difference(command("[    1.0][   T71] two"), done) is None
    assert difference(command("[    1.0] four"), done)


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
    ("reported", "same"),
    [
        ("arm_smmu_v3            77824  2", True),
        # Which modules hold others depends on the configuration.
        ("vfio                   45056  3 vfio_pci,vfio_iommu_type1", True),
        ("vfio                   45056  4 vfio_pci,vfio_iommu_type1", False),
        ("arm_smmu_v3            77824  1", False),
        ("arm_smmu_v3            77824  2 e1000e", False),
    ],
)
def test_a_row_of_lsmod_is_a_name_a_count_and_holders(reported: str, same: bool) -> None:
    state = State(
        modules={
            "arm_smmu_v3": Module("arm_smmu_v3", "live", 2, ()),
            "vfio": Module("vfio", "live", 4, ("vfio_iommu_type1", "vfio_pci", "vfio_pci_core")),
        }
    )
    done = replace(step(0), command="lsmod", after=state)
    assert (difference(command(reported, text="lsmod"), done) is None) is same


def test_a_number_counts_where_no_rule_says_otherwise() -> None:
    """A row of slabinfo looks like one of lsmod."""
    assert difference(command("kmalloc-64 1234 5"), step(out="kmalloc-64 1235 5\n"))


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


def test_verdicts() -> None:
    good, bad = command("a"), command("b")
    done = step(out="a\n")
    assert verdict_of([good], [done]).word == "reproduced"
    found = verdict_of([good, bad], [done, done])
    assert (found.word, found.exit_code) == ("not-reproduced", 1)
    assert "step 2" in found.reason
    lacking = step(127, err="/proc/self/fd/8: eval: line 2: lspci: not found\n")
    found = verdict_of([bad], [lacking])
    assert (found.word, found.exit_code) == ("inconclusive", 3)
    assert "the guest has no lspci" in found.reason
    assert verdict_of([command()], [step()]).word == "inconclusive"


@pytest.mark.parametrize(
    "said",
    [
        "modprobe: FATAL: Module my_driver not found in directory /lib/modules/6.12.117",
        "modprobe: module my_driver not found in modules.dep",
        "insmod: can't insert './my-driver.ko': No such file or directory",
    ],
)
def test_a_module_that_the_guest_lacks_leaves_nothing_to_judge(said: str) -> None:
    """What follows differs because of that, whatever the kernel does."""
    found = verdict_of([command(status=0), command("in use")], [step(1, err=said), step(0)])
    assert found.word == "inconclusive"
    assert "the guest has no module my_driver" in found.reason


def test_that_a_module_which_the_guest_lacks_is_in_use_cannot_be_judged() -> None:
    reported = command("rmmod: ERROR: Module nvidia is in use")
    found = verdict_of(
        [reported], [step(1, err="rmmod: ERROR: Module nvidia is not currently loaded")]
    )
    assert (found.word, "no module nvidia" in found.reason) == ("inconclusive", True)


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


def test_a_status_that_holds_for_want_of_a_module_is_none() -> None:
    lacking = step(1, err="modprobe: module my_driver not found in modules.dep")
    assert verdict_of([command(status=1)], [lacking]).word == "inconclusive"


def test_what_differs_before_a_module_is_missing_is_judged() -> None:
    lacking = step(1, err="modprobe: module my_driver not found in modules.dep")
    found = verdict_of([command("in use"), command(status=0)], [step(0), lacking])
    assert found.word == "not-reproduced"


def test_a_module_that_the_report_lacks_too_is_no_reason() -> None:
    lacking = step(1, err="modprobe: module my_driver not found in modules.dep")
    reported = command("modprobe: FATAL: Module my_driver not found.", "and more", status=1)
    assert verdict_of([reported], [lacking]).word == "not-reproduced"


def test_a_report_of_a_missing_module_is_judged() -> None:
    said = "modprobe: FATAL: Module my_driver not found in directory /lib/modules/6.12.117"
    lacking = step(1, err="modprobe: module my_driver not found in modules.dep")
    assert verdict_of([command(said)], [lacking]).word == "reproduced"


OOPS = ("[ 1.0] Unable to handle kernel NULL pointer dereference at virtual address 08",)


@pytest.mark.parametrize("reported", [OOPS, ("Segmentation fault",), ("Killed",)])
def test_a_command_that_the_report_shows_dying_may_die(reported: tuple[str, ...]) -> None:
    done = step(139, killed=True, kmsg=(OOPS[0].partition("] ")[2],))
    assert difference(command(*reported), done) is None


@pytest.mark.parametrize("text", ["modprobe -r a; echo $?", "modprobe -r a | tee x"])
def test_the_status_of_a_compound_command_says_nothing_about_its_part(text: str) -> None:
    done = replace(step(0, err=BUSYBOX + "\n", refcount=2), command=text)
    assert difference(command(OLD_BUSYBOX), done) is None


def test_panics() -> None:
    reported = command("[ 1.0] Kernel panic - not syncing: Fatal exception in interrupt")
    same, other = GuestPanic("Fatal exception in interrupt"), GuestPanic("sysrq triggered crash")
    assert verdict_of([reported], [], same).word == "reproduced"
    assert verdict_of([reported], [], other).word == "not-reproduced"
    assert verdict_of([command("x")], [], other).word == "inconclusive"


def test_a_lost_guest_makes_no_verdict() -> None:
    reported = command("[ 1.0] Kernel panic - not syncing: Fatal exception in interrupt")
    assert verdict_of([reported], [], GuestLost("QEMU ended by SIGKILL")).word == "inconclusive"


def test_virtio_numbers_depend_on_the_machine() -> None:
    done = step(kmsg=("virtio_iommu virtio1: input address: 64 bits",))
    assert difference(command("[ 2.0] virtio_iommu virtio0: input address: 64 bits"), done) is None


@pytest.mark.parametrize(
    ("reported", "same"),
    [
        ("arm_smmu_v3 40960 2 - Live 0xffff80007a6b0000", True),
        ("arm_smmu_v3 40960 2 - Unloading 0xffff80007a6b0000", False),
        ("arm_smmu_v3 40960 2 [permanent], Live 0xffff80007a6b0000", False),
        ("arm_smmu_v3 45056  2", True),
        ("arm_smmu_v3 45056  2 [permanent]", False),
    ],
)
def test_marks_of_a_row(reported: str, same: bool) -> None:
    row = "arm_smmu_v3 40960 2 - Live 0xffff800078620000\n"
    wanted = command(reported, text="grep smmu /proc/modules")
    assert (difference(wanted, step(out=row, refcount=2)) is None) is same


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


WARNED = "WARNING: CPU: 0 PID: 35 at drivers/iommu/iommu.c:634 some_function+0x70/0xa8"


@pytest.mark.parametrize(
    ("said", "same"), [((), False), ((WARNED,), False), ((OOPS[0].partition("] ")[2],), True)]
)
def test_an_oops_in_words(said: tuple[str, ...], same: bool) -> None:
    reported = Claim("splat", "the kernel oopses", "line 1", 0)
    (found,) = judged([command()], [step(kmsg=said)], claims=[reported])
    assert found.held is same


@pytest.mark.parametrize("error", [None, GuestPanic("Fatal exception")])
def test_a_panic_in_words(error: GuestPanic | None) -> None:
    reported = Claim("panic", "the kernel panics", "line 1", 0)
    (found,) = judged([command()], [step()], error, claims=[reported])
    assert found.held is (error is not None)
