# SPDX-License-Identifier: GPL-2.0-only
"""The reasons why Kconfig dropped options; conditions and notes in fragments."""

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.kernel import config, kconfig
from harness.kernel.config import Option

OUTPUT = """\
make: Entering directory
harness-symbol DEEP
Symbol: DEEP [=n]
Type  : bool
Defined at lib/Kconfig:7
  Prompt: Deep thing
  Depends on: NET [=y] && (A [=n] || B [=n]) && !C [=n] && D [=m]
  Location:
    -> Kernel hacking

harness-symbol TWICE
Symbol: TWICE [=n]
Defined at a/Kconfig:1
  Prompt: One
  Depends on: A [=n]
Defined at b/Kconfig:2
  Prompt: Two
  Depends on: B [=n] && NET [=y]

harness-symbol INNER
Symbol: INNER [=y]
Type  : bool
Defined at c/Kconfig:3
Selected by [y]:
  - OUTER [=y] && NET [=y]
Selected by [m]:
  - THIRD [=m]
Selected by [n]:
  - FOURTH [=n]

harness-symbol NOPE
harness-symbol FREE
Symbol: FREE [=n]
Defined at d/Kconfig:4
  Prompt: Free
"""


def reason_for(name: str, value: str = "y") -> str:
    return kconfig.reason(Option(name, value, "x:1"), kconfig.parse(OUTPUT)[name])


def test_reason_contains_the_unmet_part_of_a_dependency() -> None:
    assert reason_for("DEEP") == "it depends on (A [=n] || B [=n]) and D [=m]"
    assert reason_for("DEEP", "m") == "it depends on (A [=n] || B [=n])"


def test_reason_contains_the_dependencies_of_both_definitions() -> None:
    assert reason_for("TWICE") == "it depends on A [=n], or B [=n]"


def test_reason_lists_the_options_that_select_it() -> None:
    assert reason_for("INNER", "n") == "it is selected by OUTER, THIRD"


def test_reason_reports_an_option_without_a_prompt() -> None:
    assert reason_for("INNER") == "it cannot be set, only selected by other options"


def test_reason_suspects_another_option_if_no_dependency_is_unmet() -> None:
    assert "another option selects it or excludes it" in reason_for("FREE")


def test_reason_reports_an_option_of_another_architecture_or_no_option() -> None:
    assert reason_for("NOPE") == "it is an option of other architectures"
    assert kconfig.reason(Option("X", "y", "x:1"), None) == "this kernel does not have the option"


NOTED = Option("A", "y", "x:1", noted=True)


def test_violated_includes_a_noted_option_that_kconfig_dropped() -> None:
    """A note covers only an option that the kernel does not have."""
    assert config.violated([NOTED], "# CONFIG_A is not set\n") == [NOTED]


def test_notes_lists_only_requested_options_that_are_missing() -> None:
    others = [Option("B", "n", "x:2", noted=True), Option("C", "y", "x:3", noted=True)]
    assert config.notes([NOTED, *others], "CONFIG_C=y\n") == (
        "built without CONFIG_A (x:1), which this kernel does not define",
    )
    assert config.notes(others, "CONFIG_C=y\n") == ()


def test_a_noted_option_has_the_same_request_as_a_plain_option() -> None:
    assert NOTED.request == Option("A", "y", "y:2").request


def test_a_condition_applies_until_the_next_blank_line(tmp_path: Path) -> None:
    path = tmp_path / "x.config"
    text = "CONFIG_A=y\n#: noted where it is missing\n#: since 6.12\nCONFIG_B=y\n\nCONFIG_C=y\n"
    path.write_text(text)
    assert [(each.noted, each.since) for each in config.read(path)] == [
        (False, (0, 0)),
        (True, (6, 12)),
        (False, (0, 0)),
    ]


def test_the_last_condition_above_an_option_applies(tmp_path: Path) -> None:
    path = tmp_path / "x.config"
    conditions = ["#: noted where it is missing", "#: where it exists"]
    for first, last in (conditions, reversed(conditions)):
        path.write_text(f"{first}\nCONFIG_A=y\n{last}\nCONFIG_B=y\n")
        a, b = config.read(path)
        assert (a.noted, a.optional) == (b.optional, b.noted)
        assert a.noted != a.optional


@pytest.mark.parametrize(
    "name", ["MODULES", "VIRTIO_CONSOLE", "ARM_SMMU_V3", "VIRTIO_IOMMU", "PCI"]
)
def test_fragments_set_required_options_unconditionally(name: str) -> None:
    options = [each for path in config.fragments() for each in config.read(path)]
    (option,) = (each for each in options if each.name == name)
    assert not option.noted
    assert not option.optional


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("A [=y]", 2),
        ("A [=m]", 1),
        ("A", 0),
        ("!A", 2),
        ("!A [=m]", 1),
        ("A [=y] && B [=m]", 1),
        ("A [=n] || B [=m]", 1),
        ("A [=n] && B [=y] || C [=y]", 2),
        ("A [=y] && (B [=n] || C [=y])", 2),
        ("SHIFT [=12]=12", 2),
        ("SHIFT [=12]!=12", 0),
        ("GCC_VERSION [=120200]>=90100", 2),
        ("GCC_VERSION [=120200] < 90100", 0),
        ("A [=y]>=m", 2),
        ("A [=y]=y && B [=n]!=y", 2),
        ("((A [=y]))", 2),
        ("(A [=y]", 0),
        ("A [=y] &&", 0),
        ("&& A", 0),
        ("", 0),
        ("A [=y] B [=y]", 0),
    ],
)
def test_evaluate_computes_dependency_expressions(expression: str, value: int) -> None:
    assert kconfig.evaluate(expression) == value


@given(st.text("AB [=ymn]&|!() 1=", max_size=60))
def test_evaluate_returns_a_tristate_for_any_text(text: str) -> None:
    assert kconfig.evaluate(text) in (0, 1, 2)


@given(st.text(max_size=300))
def test_parsing_hostile_output_raises_nothing(text: str) -> None:
    kconfig.parse(text + "\nharness-symbol A\n" + text)


@given(st.text("CONFIG_A=yn# is not set:\n", max_size=80))
def test_reading_hostile_fragments_raises_only_usage_errors(text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "x.config")
        path.write_text(text)
        with contextlib.suppress(UsageError):
            config.read(path)


SYSCTL = Option("PROC_SYSCTL", "y", "x:1"), Option("SYSCTL", "y", "x:2", instead_of="PROC_SYSCTL")


@pytest.mark.parametrize(
    ("known", "requested"),
    [
        ({"PROC_SYSCTL", "SYSCTL"}, ["PROC_SYSCTL"]),
        ({"SYSCTL"}, ["SYSCTL"]),
        # SYSCTL is then reported as violated.
        (set(), ["SYSCTL"]),
    ],
)
def test_applicable_replaces_an_option_that_the_kernel_lacks(
    known: set[str], requested: list[str]
) -> None:
    assert [option.name for option in config.applicable(SYSCTL, known)] == requested


def test_applicable_keeps_an_unknown_option_without_a_replacement() -> None:
    assert config.applicable(SYSCTL[:1], set()) == [SYSCTL[0]]


def test_fragments_request_sysctl_for_every_kernel() -> None:
    """PROC_SYSCTL for all kernels; since 7.3, SYSCTL for a kernel without PROC_SYSCTL."""
    fragments = [option for path in config.fragments() for option in config.read(path)]
    sysctl = [option for option in fragments if "SYSCTL" in option.name]
    assert [(option.name, option.since, option.instead_of) for option in sysctl] == [
        ("PROC_SYSCTL", (0, 0), ""),
        ("SYSCTL", (7, 3), "PROC_SYSCTL"),
    ]
