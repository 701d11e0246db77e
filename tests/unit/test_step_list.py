# SPDX-License-Identifier: GPL-2.0-only
"""Reproducers in the form of step lists and tables, and their claims."""

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.report import bug_report
from tests.unit.claims import symptom_steps

HEADER = "| # | Command | Expected | Result |\n|:-:|:--|---|---|\n"


def steps(tmp_path: Path, text: str) -> list[tuple[str, tuple[str, ...]]]:
    """The commands of the report's only session, with their output."""
    (tmp_path / "r.md").write_text(text)
    ((_, session),) = bug_report.read(tmp_path / "r.md").sessions
    return [(each.text, each.output) for each in session.commands]


@pytest.mark.parametrize(
    ("cell", "output"),
    [
        ("`rmmod: busy`", ("rmmod: busy",)),
        ("`2`", ("2",)),
        ("2", ("2",)),
        ("rmmod: ERROR: Module a is in use", ("rmmod: ERROR: Module a is in use",)),
        ("ok", ()),
        ("", ()),
        ("it fails, see `dmesg`", ()),
    ],
)
def test_read_finds_commands_and_output_in_a_table(
    tmp_path: Path, cell: str, output: tuple[str, ...]
) -> None:
    table = f"{HEADER}| 1 | `modprobe a` | | ok |\n| 2 | rmmod a | `0` | {cell} |\n"
    assert steps(tmp_path, f"I do\n\n{table}\nIs it known?\n") == [
        ("modprobe a", ()),
        ("rmmod a", output),
    ]


def test_a_heading_above_a_table_does_not_change_it(tmp_path: Path) -> None:
    table = f"{HEADER}| 1 | `rmmod a` | `0` | `1` |\n| 2 | `lsmod` | | see `dmesg` |\n"
    assert steps(tmp_path, f"## Steps to reproduce\n\n{table}") == [
        ("rmmod a", ("1",)),
        ("lsmod", ()),
    ]


def test_an_escaped_pipe_in_a_table_belongs_to_the_command(tmp_path: Path) -> None:
    table = HEADER + r"| 1 | `lsmod \| grep a` | | `a 1 0` |" + "\n"
    assert steps(tmp_path, table) == [("lsmod | grep a", ("a 1 0",))]


def test_the_result_cell_of_a_table_claims_a_failure_of_its_command(tmp_path: Path) -> None:
    table = f"{HEADER}| 1 | `modprobe a` | | fails with EBUSY |\n| 2 | `rmmod b` | | works |\n"
    assert symptom_steps(tmp_path, table) == [("error", 0)]


@pytest.mark.parametrize(
    "text",
    [
        "| board | result |\n|---|---|\n| A | works |\n| B | `rmmod a` fails |\n",
        "| option | value |\n|---|---|\n| `CONFIG_IOMMU=y` | y |\n",
        "| `rmmod a` |\n| `rmmod b` |\n",
        "- `CONFIG_IOMMU=y`\n- `CONFIG_VFIO=m`\n",
        "- see `dmesg`\n",
    ],
)
def test_other_tables_and_lists_contain_no_session(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.md").write_text(text)
    with pytest.raises(UsageError, match="no shell session"):
        symptom_steps(tmp_path, text)


@pytest.mark.parametrize("mark", ["-", "*", "•", "1."])
def test_read_finds_commands_in_a_list_of_code(tmp_path: Path, mark: str) -> None:
    items = f"{mark} `modprobe a`\n{mark} `# rmmod a`\n"
    text = f"The commands are\n\n{items}\nand the last one fails with EAGAIN, see `dmesg`.\n"
    commands = [command for command, _ in steps(tmp_path, text)]
    assert commands[:2] == ["modprobe a", "rmmod a"]


def test_prose_below_a_list_of_code_claims_a_failure_of_its_last_command(tmp_path: Path) -> None:
    text = "- `modprobe a`\n- `rmmod a`\n\nThe last one fails with EAGAIN.\n"
    assert symptom_steps(tmp_path, text) == [("error", 1)]
