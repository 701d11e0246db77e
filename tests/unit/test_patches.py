# SPDX-License-Identifier: GPL-2.0-only
"""Reading the files of --patch, and applying their patches."""

import contextlib
import re
import tempfile
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.kernel import patching, series
from harness.kernel.series import Patch

DIFF = """\
--- a/file.c
+++ b/file.c
@@ -2,3 +2,4 @@
 two
 three
+NEW
 four
"""
LINES = ["one", "two", "three", "four", "five"]


def another(number: int, of: str = "file.c") -> str:
    return f"--- /dev/null\n+++ b/{of}.{number}\n@@ -0,0 +1 @@\n+{number}\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file.c").write_text("\n".join(LINES) + "\n")
    return tmp_path / "tree"


def mail(subject: str, body: str) -> bytes:
    message = EmailMessage()
    message["From"], message["Subject"] = "A <a@example.org>", subject
    message["Date"] = "Mon, 2 Nov 2026 10:00:00 +0000"
    message.set_content(body, cte="8bit")
    return b"From a@example.org Mon Nov  2 10:00:00 2026\n" + message.as_bytes() + b"\n"


def mbox(path: Path, *mails: tuple[str, str]) -> Path:
    path.write_bytes(b"".join(mail(*each) for each in mails))
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_read_drops_the_text_above_a_plain_diff(tmp_path: Path) -> None:
    (patch,) = series.read(write(tmp_path / "fix.patch", f"Some words.\n\n{DIFF}"))
    assert patch == Patch("fix.patch", DIFF.encode())


def test_read_sorts_a_series_and_ignores_replies(tmp_path: Path) -> None:
    path = mbox(
        tmp_path / "thread.mbox",
        ("[PATCH 0/2] two things", "no diff here"),
        ("[PATCH 2/2] second", f"why\n---\n{another(2)}-- \n2.40\n"),
        ("[PATCH 1/2] first", f"why\n---\n{another(1)}"),
        ("Re: [PATCH 1/2] first", f"better so:\n{another(9)}"),
    )
    first, second = series.read(path)
    assert first.name == "thread.mbox (1: first)"
    assert b"+1\n" in first.text
    assert b"+2\n" in second.text


def test_read_returns_the_latest_version_of_a_patch(tmp_path: Path) -> None:
    path = mbox(
        tmp_path / "t.mbox",
        ("[RFC PATCH] x", another(1)),
        ("[PATCH v3] x", another(3)),
        ("[PATCH v2 RESEND] x", another(2)),
    )
    (patch,) = series.read(path)
    assert b"+3\n" in patch.text


@pytest.mark.parametrize(
    ("subjects", "missing"),
    [
        (["[PATCH 1/3] x", "[PATCH 3/3] x"], r"\(3 in all\): 2"),
        (
            ["[PATCH 1/3] x", "[PATCH 2/3] x", "[PATCH 3/3] x", "[PATCH v2 2/3] x"],
            r"\(v2, 3 in all\): 1, 3",
        ),
    ],
)
def test_read_rejects_an_incomplete_series(
    tmp_path: Path, subjects: list[str], missing: str
) -> None:
    mails = [(subject, another(number)) for number, subject in enumerate(subjects)]
    with pytest.raises(UsageError, match=f"lacks patches of its series {missing}"):
        series.read(mbox(tmp_path / "t.mbox", *mails))


@pytest.mark.parametrize(
    ("second", "first", "reply"),
    [
        ("[PATCHv2 2/2] b", "[PATCHv2 1/2] a", "Re: [PATCHv2 1/2] a"),
        ("[patch V2 2/2] b", "[patch V2 1/2] a", "RE: [patch V2 1/2] a"),
        ("[RFC 2/2] b", "[RFC 1/2] a", "Re: [RFC 1/2] a"),
        ("[list] [PATCH 2/2] b", "[list] [PATCH 1/2] a", "Re: [list] [PATCH 1/2] a"),
        ("[PATCH 2/2 v3] b", "[PATCH 1/2 v3] a", "AW: [PATCH 1/2 v3] a"),
        ("[PATCH RFC net-next v4 02/02] b", "[PATCH RFC net-next v4 01/02] a", "Re: x"),
    ],
)
def test_read_accepts_many_styles_of_subjects(
    tmp_path: Path, second: str, first: str, reply: str
) -> None:
    mails = [(second, another(2)), (reply, another(9)), (first, another(1)), ("[PATCH] z", "no")]
    patches = series.read(mbox(tmp_path / "t.mbox", *mails))
    assert [re.findall(rb"^\+(\d)$", patch.text, re.MULTILINE) for patch in patches] == [
        [b"1"],
        [b"2"],
    ]


def test_read_ignores_the_interdiff_in_a_cover_letter(tmp_path: Path) -> None:
    """git format-patch --interdiff adds the changes since the last version to the cover letter."""
    cover = mail("[PATCH v2 0/1] x", another(0))
    (tmp_path / "v2-0000-cover-letter.patch").write_bytes(cover)
    (tmp_path / "v2-0001-x.patch").write_bytes(mail("[PATCH v2 1/1] x", another(1)))
    assert [patch.name for patch in series.read(tmp_path)] == ["v2-0001-x.patch"]
    (tmp_path / "0001-x.patch").write_bytes(mail("[PATCH 1/1] x", another(1)))
    with pytest.raises(UsageError, match="has patches of v1 and v2"):
        series.read(tmp_path)


def test_read_returns_a_diff_in_a_reply_if_there_is_no_other_diff(tmp_path: Path) -> None:
    (patch,) = series.read(mbox(tmp_path / "t.mbox", ("Re: broken", f"try this:\n\n{DIFF}")))
    assert patch.text.startswith(b"--- a/file.c")


def test_read_returns_a_patch_in_an_attachment(tmp_path: Path) -> None:
    message = EmailMessage()
    message["From"], message["Subject"] = "a@example.org", "[PATCH] x"
    message.set_content("see below")
    message.add_attachment(DIFF.encode(), "text", "x-patch", cte="base64")
    path = tmp_path / "x.eml"
    path.write_bytes(message.as_bytes())
    assert series.read(path)[0].text == DIFF.encode()


def test_read_preserves_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "x.patch"
    diff = DIFF.encode().replace(b"NEW", b"Andr\xe9\xa0")
    path.write_bytes(diff)
    assert series.read(path)[0].text == diff


def test_read_skips_the_cover_letter_in_a_format_patch_directory(tmp_path: Path) -> None:
    directory = tmp_path / "out"
    directory.mkdir()
    mbox(directory / "0000-cover-letter.patch", ("[PATCH 0/2] x", "words"))
    mbox(directory / "0002-b.patch", ("[PATCH 2/2] b", another(2)))
    mbox(directory / "0001-a.patch", ("[PATCH 1/2] a", another(1)))
    assert [patch.name for patch in series.read(directory)] == ["0001-a.patch", "0002-b.patch"]
    with pytest.raises(UsageError, match=r"no \*\.patch file"):
        series.read(tmp_path)


def test_read_returns_a_patch_in_an_html_page(tmp_path: Path) -> None:
    html = f"<html><body><pre>[PATCH] x\n\nwhy &lt;a@b&gt;\n\n{DIFF}</pre></body></html>"
    assert series.read(write(tmp_path / "x.html", html))[0].text.startswith(b"--- a/file.c")


def test_read_rejects_a_file_without_a_diff(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no diff"):
        series.read(write(tmp_path / "x", "> --- a/file.c\n> +++ b/file.c\nquoted only\n"))


def test_applying_a_matching_patch_returns_no_notes(tree: Path) -> None:
    assert patching.apply(tree, Patch("x", DIFF.encode())) == []
    assert (tree / "file.c").read_text().split() == ["one", "two", "three", "NEW", "four", "five"]


def test_applying_with_an_offset_returns_a_note(tree: Path) -> None:
    (tree / "file.c").write_text("0\n" * 7 + "\n".join(LINES) + "\n")
    (note,) = patching.apply(tree, Patch("x", DIFF.encode()))
    assert note == "file.c, hunk 1, moved +7 lines to 9"


LONG = """\
--- a/file.c
+++ b/file.c
@@ -1,6 +1,7 @@
 zero
 one
 two
+NEW
 three
 four
 five
"""


def test_applying_with_fuzz_returns_a_note(tree: Path) -> None:
    notes = patching.apply(tree, Patch("x", LONG.encode()))
    fuzz = "file.c, line 1: applied with fuzz: only 2 lines before and 2 after match the patch"
    assert fuzz in notes
    assert "NEW" in (tree / "file.c").read_text()


def test_apply_shows_the_nearest_lines_if_a_hunk_does_not_apply(tree: Path) -> None:
    (tree / "file.c").write_text("\n".join(["a", "b", "two", "3", "four", "five"]) + "\n")
    with pytest.raises(UsageError) as caught:
        patching.apply(tree, Patch("fix.patch", DIFF.encode()))
    assert caught.value.message == (
        "fix.patch does not apply to file.c:2: it expects 'three', but at line 4 the tree has '3'"
    )
    assert "-three\n+3\n" in caught.value.detail
    assert "lines 3-5" in caught.value.detail
    assert "NEW" not in (tree / "file.c").read_text()


def test_apply_rejects_a_patch_that_is_already_applied(tree: Path) -> None:
    patching.apply(tree, Patch("x", DIFF.encode()))
    with pytest.raises(UsageError, match="x is already in this kernel"):
        patching.apply(tree, Patch("x", DIFF.encode()))


RENAMES = [
    "rename from file.c\nrename to other.c\n",
    "rename old file.c\nrename new other.c\n",
]


@pytest.mark.parametrize("lines", RENAMES)
def test_touched_files_includes_both_names_of_a_rename(lines: str) -> None:
    text = f"diff --git a/file.c b/other.c\nsimilarity index 100%\n{lines}"
    assert patching.touched_files(Patch("x", text.encode())) == {"file.c", "other.c"}


def test_touched_files_unescapes_a_quoted_name() -> None:
    name = r'"a/\303\244.c"'
    text = (
        f'diff --git {name} "b/\\303\\244.c"\ndeleted file mode 100644\n'
        f"--- {name}\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
    )
    assert patching.touched_files(Patch("x", text.encode())) == {"ä.c"}


def test_apply_changes_no_file_if_one_does_not_apply(tree: Path) -> None:
    half_applicable = DIFF + "--- a/nope.c\n+++ b/nope.c\n@@ -1 +1 @@\n-a\n+b\n"
    with pytest.raises(UsageError, match=r"nope\.c"):
        patching.apply(tree, Patch("x", half_applicable.encode()))
    assert "NEW" not in (tree / "file.c").read_text()


@pytest.mark.parametrize("name", ["../out.c", "/etc/out.c", "a/../../out.c", "sub/out.c"])
def test_apply_writes_nothing_outside_the_tree(tree: Path, tmp_path: Path, name: str) -> None:
    (tree / "sub").symlink_to(tmp_path)
    text = f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+x\n"
    patch = Patch("x", text.encode())
    with contextlib.suppress(UsageError):
        patching.touched_files(patch)
        patching.apply(tree, patch)
    assert not (tmp_path / "out.c").exists()
    assert not Path("/etc/out.c").exists()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, len(LONG) - 1), st.text("+- @\n\\/1a\0", max_size=6))
def test_malformed_patches_raise_only_usage_errors(
    tmp_path_factory: pytest.TempPathFactory, at: int, text: str
) -> None:
    directory = tmp_path_factory.mktemp("x")
    (directory / "file.c").write_text("\n".join(LINES) + "\n")
    patch = Patch("x", (LONG[:at] + text + LONG[at:]).encode())
    with contextlib.suppress(UsageError):
        patching.touched_files(patch)
        patching.apply(directory, patch)


@given(st.binary(max_size=200))
def test_malformed_files_raise_only_usage_errors(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "x")
        path.write_bytes(b"--- a\n+++ b\n" + data)
        with contextlib.suppress(UsageError):
            series.read(path)
