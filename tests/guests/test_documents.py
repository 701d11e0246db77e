# SPDX-License-Identifier: GPL-2.0-only
"""The examples in README.md and docs/ show what their commands print."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.host.text import printable
from tests import documents
from tests.documents import Example

EXAMPLES = [each for page in documents.pages() for each in documents.examples(page)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: f"{each.page}:{each.line}")
def test_command_prints_what_its_page_shows(example: Example, tmp_path: Path) -> None:
    if example.skipped:
        pytest.skip(example.skipped)
    for name, text in example.files:
        (tmp_path / name).write_text(text)
    (tmp_path / "tests").symlink_to(documents.ROOT / "tests")
    done = subprocess.run(
        ["sh", "-c", example.command],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    printed = done.stdout.rstrip("\n").splitlines()
    problem = documents.difference(example.output, printed)
    assert not problem, f"{problem}\n{printable(done.stdout)}"
