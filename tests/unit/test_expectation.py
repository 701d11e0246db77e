# SPDX-License-Identifier: GPL-2.0-only
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.guest.guest import Step
from harness.guest.state import Module, State
from harness.klog.record import Record
from harness.scenario import expectation, verdict
from harness.scenario.expectation import Difference, Fact
from harness.scenario.transcript import Command

OLD_BUSYBOX = "modprobe: can't unload module arm_smmu_v3: Resource temporarily unavailable"
BUSYBOX = "modprobe: can't unload module 'arm-smmu-v3': Resource temporarily unavailable"
KMOD = "modprobe: FATAL: Module arm_smmu_v3 is in use."
RMMOD = "rmmod: ERROR: Module arm_smmu_v3 is in use by: vfio"


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


def command(*output: str, status: int | None = None) -> Command:
    return Command("x", output, status, 1)


def compare(wanted: Command, done: Step) -> Difference | None:
    return expectation.compare(wanted, done)


@pytest.mark.parametrize("line", [OLD_BUSYBOX, BUSYBOX, KMOD, RMMOD])
def test_one_fact_in_many_words(line: str) -> None:
    assert expectation.fact(line) == Fact("in use", "arm_smmu_v3")


@pytest.mark.parametrize("told", [OLD_BUSYBOX, BUSYBOX, KMOD, RMMOD])
@pytest.mark.parametrize("seen", [OLD_BUSYBOX, BUSYBOX, KMOD, RMMOD])
def test_words_of_one_tool_match_those_of_another(told: str, seen: str) -> None:
    assert compare(command(told), step(1, err=seen + "\n", refcount=2)) is None


@pytest.mark.parametrize(
    ("done", "instead"),
    [
        (step(0, refcount=None), "not loaded"),
        (step(1, err=BUSYBOX, refcount=None), "not loaded"),
        (step(1, err=BUSYBOX, refcount=0), "refcount 0"),
        (step(0, err=BUSYBOX, refcount=2), "succeeded"),
    ],
)
def test_what_happened_counts_and_not_the_words(done: Step, instead: str) -> None:
    difference = compare(command(OLD_BUSYBOX), done)
    assert difference
    assert instead in difference.observed


def test_a_fact_about_another_module_is_another_fact() -> None:
    other = BUSYBOX.replace("arm-smmu-v3", "virtio-iommu")
    assert compare(command(OLD_BUSYBOX), step(1, err=other, refcount=2))


def test_output_that_the_report_does_not_show_differs() -> None:
    difference = compare(command(), step(1, err=BUSYBOX, refcount=2))
    assert difference == Difference("no output", BUSYBOX)


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
    assert (compare(command(*wanted), step(out="a\n", err="b\n")) is None) is same


def test_kernel_messages_match_without_time_and_in_order() -> None:
    done = step(kmsg=("one", "two", "three"))
    assert compare(command("[   12.345678] one", "[   13.000000] three"), done) is None
    assert compare(command("[    1.0] three", "[    2.0] one"), done)
    assert compare(command("[    1.0][   T71] two"), done) is None
    assert compare(command("[    1.0] four"), done)


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        ("arm_smmu_v3            77824  2", "arm_smmu_v3 40960 2"),
        ("vfio 4 3 a,b", "vfio 4 3 a,b"),
        ("Module                  Size  Used by", "Module  Size  Used by    Not tainted"),
        ("cat: /x: No such file or directory", "cat: can't open '/x': No such file or directory"),
        ("bash: write error: Device or resource busy", "sh: write error: Device or resource busy"),
        ("-bash: foo: command not found", "/proc/self/fd/8: eval: line 6: foo: not found"),
        ("[    3.1] arm-smmu-v3: hello", "[    0.458724] arm-smmu-v3: hello"),
    ],
)
def test_what_a_machine_or_a_tool_words_otherwise(told: str, seen: str) -> None:
    assert compare(command(told), step(1, out=seen + "\n")) is None


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        ("arm_smmu_v3 77824 2", "arm_smmu_v3 77824 1"),
        ("cat: /x: No such file or directory", "cat: can't open '/y': No such file or directory"),
        ("[    3.1] one", "[    3.1] two"),
        ("...: No such device", "something else"),
    ],
)
def test_what_is_not_the_same(told: str, seen: str) -> None:
    assert compare(command(told), step(1, out=seen + "\n"))


def test_status() -> None:
    assert compare(command(status=1), step(1)) is None
    assert compare(command(status=0), step(1)) == Difference("exit status 0", "exit status 1")


def test_a_killed_shell_always_differs() -> None:
    assert compare(command(), step(139, killed=True))


def test_a_pattern_made_to_take_forever_does_not() -> None:
    started = time.monotonic()
    assert compare(command("(a|aa)+$ (re)"), step(out="a" * 60 + "b"))
    assert time.monotonic() - started < 10


def test_many_elisions_do_not_explode() -> None:
    wanted = command(*(["..."] * 200 + ["x"]))
    assert compare(wanted, step(out="a\n" * 2000))


@given(st.lists(st.text(max_size=30), max_size=8), st.text(max_size=100))
def test_hostile_output_never_breaks_it(output: list[str], printed: str) -> None:
    compare(command(*output), step(out=printed))


@given(st.lists(st.text(st.characters(whitelist_categories=["L"]), min_size=1), max_size=8))
def test_the_same_text_matches_itself(lines: list[str]) -> None:
    assert compare(command(*lines), step(out="\n".join(lines))) is None


def test_verdicts() -> None:
    good, bad = command("a"), command("b")
    done = step(out="a\n")
    outcomes = [verdict.outcome(good, done), verdict.outcome(bad, done)]
    assert verdict.judge([good], outcomes[:1]).word == "reproduced"
    found = verdict.judge([good, bad], outcomes)
    assert (found.word, found.exit_code) == ("not-reproduced", 1)
    assert "step 2 of 2" in found.reason
    lacking = step(127, err="/proc/self/fd/8: eval: line 2: lspci: not found\n")
    found = verdict.judge([bad], [verdict.outcome(bad, lacking)])
    assert (found.word, found.reason) == ("unjudged", "step 1: the guest has no lspci")
    silent = [verdict.outcome(command(), step())]
    assert verdict.judge([command()], silent).word == "unjudged"


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
    first, second = command(status=0), command("in use")
    outcomes = [verdict.outcome(first, step(1, err=said)), verdict.outcome(second, step(0))]
    found = verdict.judge([first, second], outcomes)
    assert (found.word, found.reason) == (
        "unjudged",
        "step 1: the guest has no module my_driver",
    )


def test_what_differs_before_a_module_is_missing_is_judged() -> None:
    lacking = step(1, err="modprobe: module my_driver not found in modules.dep")
    first, second = command("in use"), command(status=0)
    outcomes = [verdict.outcome(first, step(0)), verdict.outcome(second, lacking)]
    assert verdict.judge([first, second], outcomes).word == "not-reproduced"


def test_a_module_that_the_report_lacks_too_is_no_reason() -> None:
    lacking = step(1, err="modprobe: module my_driver not found in modules.dep")
    told = command("modprobe: FATAL: Module my_driver not found.", "and more", status=1)
    assert verdict.judge([told], [verdict.outcome(told, lacking)]).word == "not-reproduced"


def test_a_report_of_a_missing_module_is_judged() -> None:
    said = "modprobe: FATAL: Module my_driver not found in directory /lib/modules/6.12.117"
    told = command(said)
    lacking = step(1, err="modprobe: module my_driver not found in modules.dep")
    assert verdict.judge([told], [verdict.outcome(told, lacking)]).word == "reproduced"


OOPS = ("[ 1.0] Unable to handle kernel NULL pointer dereference at virtual address 08",)


@pytest.mark.parametrize("told", [OOPS, ("Segmentation fault",), ("Killed",)])
def test_a_command_that_the_report_shows_dying_may_die(told: tuple[str, ...]) -> None:
    done = step(139, killed=True, kmsg=(OOPS[0].partition("] ")[2],))
    assert compare(command(*told), done) is None


@pytest.mark.parametrize("text", ["modprobe -r a; echo $?", "modprobe -r a | tee x"])
def test_the_status_of_a_compound_command_says_nothing_about_its_part(text: str) -> None:
    done = replace(step(0, err=BUSYBOX + "\n", refcount=2), command=text)
    assert compare(command(OLD_BUSYBOX), done) is None


def test_panics() -> None:
    told = command("[ 1.0] Kernel panic - not syncing: Fatal exception in interrupt")
    assert expectation.tells_panic(told, "Fatal exception in interrupt")
    assert not expectation.tells_panic(told, "sysrq triggered crash")
    assert not expectation.tells_panic(command("x"), "x")


def test_virtio_numbers_depend_on_the_machine() -> None:
    done = step(kmsg=("virtio_iommu virtio1: input address: 64 bits",))
    assert compare(command("[ 2.0] virtio_iommu virtio0: input address: 64 bits"), done) is None
