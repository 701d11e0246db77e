# SPDX-License-Identifier: GPL-2.0-only
"""Reading the examples of a page, and comparing their output."""

from pathlib import Path

import pytest

from tests import documents

PAGE = """
# Title

<!-- file: one.py -->
```python
print(1)
```

```console
$ python one.py
1
$ python \\
    -V
Python ...
```

<!-- not run: takes hours -->
```console
$ sleep 9999
```

```
$ not an example
```
"""


def test_examples_returns_the_commands_of_a_page_with_output_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    first, second, third = documents.examples(page)
    assert (first.page, first.line, first.command) == ("page.md", 10, "python one.py")
    assert (first.output, first.files) == (("1",), (("one.py", "print(1)\n"),))
    assert (second.command, second.output) == ("python  -V", ("Python ...",))
    assert (third.command, third.skipped) == ("sleep 9999", "takes hours")


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "...", "d"], ["a", "b", "c", "d"]),
        (["...", "d", "..."], ["a", "d", "e"]),
        (["[    0.350451] x: 3 s"], ["[    1.2] x: 11.5 s"]),
        (["run: /home/you/runs/20261121-repro"], ["run: /tmp/w/x/y/z-repro"]),
        (["debian:6.12 (6.12.117-1~deb12u1)  built"], ["debian:6.12 (6.12.118-1) built"]),
        (["reproduced: ..."], ["reproduced: the symptom"]),
    ],
)
def test_difference_ignores_elided_lines_times_paths_and_versions(
    expected: list[str], printed: list[str]
) -> None:
    assert documents.difference(expected, printed) == ""


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        (["a"], ["b"]),
        (["a"], ["a", "b"]),
        (["a", "b"], ["a"]),
        (["a", "...", "d"], ["a", "b"]),
        (["refcount 2"], ["refcount 3"]),
        (["reproduced: ..."], ["not reproduced: x"]),
    ],
)
def test_difference_reports_other_lines(expected: list[str], printed: list[str]) -> None:
    assert documents.difference(expected, printed) != ""
