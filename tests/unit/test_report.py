# SPDX-License-Identifier: GPL-2.0-only
"""Reading reports: mails, mailboxes and archive pages, and their sessions and claims."""

import contextlib
import gzip
import io
import time
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.report import bug_report, session_selection
from harness.repro import request
from tests.unit.claims import symptom_numbers

SESSION = "$ modprobe arm-smmu-v3\n$ modprobe -r arm-smmu-v3\nmodprobe: can't unload module\n"


def texts(path: Path) -> list[tuple[str, ...]]:
    return [session.texts for _, session in bug_report.read(path).sessions]


EXPECTED = [("modprobe arm-smmu-v3", "modprobe -r arm-smmu-v3")]


def mail(body: str, subject: str = "busy") -> EmailMessage:
    message = EmailMessage()
    message["From"] = "A <a@example.org>"
    message["Subject"] = subject
    message.set_content(body, cte="quoted-printable")
    return message


def test_read_finds_the_session_in_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_text("Hello,\n\n" + SESSION)
    assert texts(path) == EXPECTED


def test_read_decodes_quoted_printable(tmp_path: Path) -> None:
    path = tmp_path / "report.eml"
    path.write_bytes(bytes(mail("Ünload fails = always:\n\n" + SESSION)))
    assert b"=3D" in path.read_bytes()
    assert texts(path) == EXPECTED


def test_read_skips_the_html_alternative_of_a_mail(tmp_path: Path) -> None:
    message = mail("Hi\n\n" + SESSION)
    message.add_alternative(f"<html><body><pre>{SESSION}</pre></body></html>", subtype="html")
    path = tmp_path / "report.eml"
    path.write_bytes(bytes(message))
    assert texts(path) == EXPECTED


def test_read_finds_the_session_in_an_html_only_mail(tmp_path: Path) -> None:
    message = EmailMessage()
    message["From"] = "A <a@example.org>"
    message["Subject"] = "busy"
    lines = "".join(f"<div>{line.replace(' ', '&nbsp;')}</div>" for line in SESSION.splitlines())
    hidden = "<style>$ rm -rf</style>"
    message.set_content(f"<html><head>{hidden}</head><body><p>Hi</p>{lines}</body></html>", "html")
    path = tmp_path / "report.eml"
    path.write_bytes(bytes(message))
    assert texts(path) == EXPECTED


def test_select_defaults_to_the_first_message_with_a_session(tmp_path: Path) -> None:
    first = bytes(mail("Nothing here."))
    second = bytes(mail("Hi\n\n" + SESSION))
    third = bytes(mail("> " + SESSION.replace("\n", "\n> ") + "\n\n$ uname -r\n6.12\n"))
    path = tmp_path / "thread.mbox"
    start = b"From a@example.org Thu Aug 29 12:05:04 2024\n"
    path.write_bytes(b"\n".join(start + message for message in (first, second, third)))
    assert texts(path) == [*EXPECTED, ("uname -r",)]
    report = bug_report.read(path)
    assert session_selection.select(report, None).session.texts == EXPECTED[0]
    assert session_selection.select(report, "2").session.texts == ("uname -r",)
    (note,) = session_selection.select(report, None).notes
    assert "2 (line 6 of message 3, 1 command from 'uname -r')" in note
    assert session_selection.select(report, "1,2").session.texts == (*EXPECTED[0], "uname -r")
    assert session_selection.select(report, "all").session.texts == (*EXPECTED[0], "uname -r")


def test_read_splits_an_archive_page_into_messages(tmp_path: Path) -> None:
    path = tmp_path / "page.txt"
    quoted = SESSION.replace("$", ">   $").replace("modprobe:", ">   modprobe:")
    path.write_text(
        f"Module is busy\nPosted by A 1 year ago\n{SESSION}\n"
        f"Re: Module is busy\nPosted by B 1 year ago\n{quoted}\nWhy?\n"
    )
    report = bug_report.read(path)
    assert len(report.texts) == 3
    assert session_selection.select(report, None).session.texts == EXPECTED[0]


def test_read_falls_back_to_latin_1(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_bytes("Grüße,\n\n".encode("latin-1") + SESSION.encode())
    assert texts(path) == EXPECTED
    assert "Grüße" in bug_report.read(path).texts[0].lines[0].text


def test_read_accepts_crlf_line_endings(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_bytes(SESSION.replace("\n", "\r\n").encode())
    assert texts(path) == EXPECTED


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"\x7fELF\0\0", "binary"),
        (b"Nothing of a shell in here.\n", "no shell session"),
        (b"\x1f\x8b\x08\0cut", "cannot decompress"),
    ],
)
def test_create_rejects_unreadable_input_in_one_line_with_status_2(
    tmp_path: Path, content: bytes, word: str
) -> None:
    path = tmp_path / "report"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=word) as caught:
        request.create(path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_read_rejects_missing_files_directories_and_urls(tmp_path: Path) -> None:
    for path, word in ((tmp_path / "nope", "no such file"), (tmp_path, "a directory")):
        with pytest.raises(UsageError, match=word):
            bug_report.read(path)
    with pytest.raises(UsageError, match="download the mbox"):
        bug_report.read(Path("https:/lists.example/x"))


def test_read_decompresses_a_gzipped_mbox(tmp_path: Path) -> None:
    path = tmp_path / "t.mbox.gz"
    path.write_bytes(gzip.compress(bytes(mail("Hi\n\n" + SESSION))))
    assert texts(path) == EXPECTED


def test_read_rejects_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.host.mail._MAX_BYTES", 1000)
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(b"x" * 100_000))
    with pytest.raises(UsageError, match="larger than 64 MiB"):
        bug_report.read(path)


def test_prose_after_an_html_block_is_not_output(tmp_path: Path) -> None:
    message = EmailMessage()
    message["From"], message["Subject"] = "a@example.org", "x"
    message.set_content("<pre># ls /sys\nblock</pre><p>Is this known?</p>", "html")
    path = tmp_path / "report.eml"
    path.write_bytes(bytes(message))
    ((_, session),) = bug_report.read(path).sessions
    assert session.commands[0].output == ("block",)


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Type: text/plain; charset=undefined",
        b"Content-Type: text/plain; charset*=us-ascii''a%00b",
        b"Content-Type: text/plain; charset=raw_unicode_escape",
        b"Content-Type: text/plain; " + b"(" * 5000,
        b"Content-Type: text/html",
    ],
)
def test_read_of_a_malformed_mail_raises_only_usage_errors(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "report.eml"
    body = b"<![foo[x]]>\n$ echo \\ud800\nx\n"
    path.write_bytes(b"From: a@b\nSubject: x\n" + header + b"\n\n" + body)
    with contextlib.suppress(UsageError):
        for _, session in bug_report.read(path).sessions:
            assert "".join(session.texts).encode()


def test_a_from_line_in_the_body_does_not_split_a_mail(tmp_path: Path) -> None:
    start = b"From a@example.org Thu Aug 29 12:05:04 2024\n"
    path = tmp_path / "x.mbox"
    text = "$ echo a\na\nFrom dmesg of 1 Jan 2024\n$ echo b\n"
    path.write_bytes(start + bytes(mail(text)))
    assert texts(path) == [("echo a", "echo b")]


def test_create_rejects_a_missing_session(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_text(SESSION)
    with pytest.raises(UsageError, match="no session 7"):
        request.create(path, "7")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=1000), st.sampled_from([b"", b"From a@b Thu Aug 29 12:05:04 2024\n"]))
def test_read_of_any_bytes_raises_only_usage_errors(
    tmp_path: Path, data: bytes, start: bytes
) -> None:
    path = tmp_path / "report"
    header = b"From: a@b\nSubject: x\nContent-Type: text/html; charset=\xff\n\n"
    for content in (data, start + data, header + data, start + header + data):
        path.write_bytes(content)
        with contextlib.suppress(UsageError):
            report = bug_report.read(path)
            if report.sessions:
                session_selection.select(report, "all")
                session_selection.select(report, None)


@pytest.mark.parametrize(
    ("text", "machine_name", "kmod"),
    [
        ("$ modprobe arm-smmu-v3\n$ true\n", "smmuv3", False),
        (
            "$ rmmod virtio_iommu\nrmmod: ERROR: Module virtio_iommu is in use\n",
            "virtio-iommu",
            True,
        ),
        ("$ ls /sys\nblock\n", "smmuv3", False),
    ],
)
def test_create_reads_the_machine_and_extra_packages_from_the_report(
    tmp_path: Path, text: str, machine_name: str, kmod: bool
) -> None:
    path = tmp_path / "report"
    path.write_text(text)
    found = request.create(path)
    assert (found.machine.name, "kmod" in found.extras) == (machine_name, kmod)


def test_create_notes_that_iommu_client_replaces_test_module(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_text("$ modprobe test_module\n$ rmmod test_module\nx\n")
    assert any("iommu_client" in note for note in request.create(path).notes)


def test_read_accepts_utf_16_and_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report"
    path.write_bytes(("Hi\r\n\r\n" + SESSION.replace("\n", "\r\n")).encode("utf-16"))
    assert texts(path) == EXPECTED
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(SESSION.encode())))
    assert texts(Path("-")) == EXPECTED


def test_create_suggests_prompts_for_a_report_without_a_session(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_text("It does not work.\n")
    with pytest.raises(UsageError, match=r"each command after '\$ '"):
        request.create(path)


def test_create_selects_the_session_that_shows_the_bug(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_text(
        "With the patch:\n\n# rmmod a\n# echo 0\n0\n\nWithout the patch:\n\n# rmmod a\nno\n"
    )
    assert request.create(path).session.commands[0].output == ("no",)


@pytest.mark.parametrize(
    ("text", "symptom"),
    [
        ("# modprobe e1000e\n# dmesg | grep 'iommu group'\n#\n", True),
        ("# modprobe e1000e\n# dmesg | grep 'iommu group'\n", False),
        ("# modprobe e1000e\n# rmmod e1000e\n#\n", False),
        ("# ls /sys/kernel/iommu_groups\n0\n# ls /sys/kernel/iommu_groups\n#\n", True),
        ("# ls /sys/kernel/iommu_groups\n0\n# ls /sys/kernel/iommu_groups\n", False),
    ],
)
def test_empty_output_of_a_query_before_a_prompt_is_a_symptom(
    tmp_path: Path, text: str, symptom: bool
) -> None:
    (tmp_path / "r.txt").write_text(text)
    case = session_selection.select(bug_report.read(tmp_path / "r.txt"), None)
    assert case.claims[-1].kind == "silence"
    assert case.claims[-1].symptom is symptom


@pytest.mark.parametrize(
    ("prose", "count"),
    [
        ("The refcount of arm_smmu_v3 stays at 2, I would have expected 0.", 2),
        ("After that the refcount of arm_smmu_v3 still is 1 instead of 0.", 1),
        ("The refcount is 3 (should be 2).", 3),
        ("The refcount is 4 and not 2 as I had expected.", 4),
        ("I would expect that the refcount is 0.", None),
        ("The refcount should be 1 instead of 0.", None),
    ],
)
def test_prose_claims_the_actual_refcount_not_the_expected_one(
    tmp_path: Path, prose: str, count: int | None
) -> None:
    (tmp_path / "r.txt").write_text(f"I do:\n\n    # modprobe a\n    # rmmod a\n\n{prose}\n")
    case = session_selection.select(bug_report.read(tmp_path / "r.txt"), None)
    found = [each.number for each in case.claims if each.kind == "refcount"]
    assert found == ([] if count is None else [count])


def test_create_skips_a_session_described_as_working(tmp_path: Path) -> None:
    path = tmp_path / "r.txt"
    path.write_text(
        "Without a client all is fine:\n\n# rmmod a\n# echo $?\n0\n\n"
        "After a reboot, with one, it is not:\n\n# rmmod a\nno\n"
    )
    assert request.create(path).session.commands[0].output == ("no",)


def test_dmesg_w_output_from_another_terminal_is_context(tmp_path: Path) -> None:
    path = tmp_path / "r.txt"
    path.write_text("# rmmod a\nno\n\nTerminal 2:\n\n# dmesg -w\n[    1.2] e1000e: bound\n")
    case = session_selection.select(bug_report.read(path), None)
    assert [(each.kind, each.symptom) for each in case.claims] == [
        ("output", True),
        ("context", False),
    ]


COUNTED = "# modprobe x-y\n# cat /sys/module/x_y/refcnt\n2\n# modprobe -r x-y\n"


@pytest.mark.parametrize(
    ("below", "symptom"),
    [
        ("... and then the refcount is 3.", ("refcount", 2, 3)),
        ("That last one hangs for ever.", ("hang", 2, None)),
        ("At this point the kernel panics.", ("panic", 2, None)),
        ("Then it oopses in iommu_group_release.", ("splat", 2, None)),
    ],
)
def test_prose_below_a_silent_command_claims_its_symptom(
    tmp_path: Path, below: str, symptom: tuple[str, int | None, int | None]
) -> None:
    shown = ("output", 1, None)
    assert symptom_numbers(tmp_path, f"{COUNTED}\n{below}\n") == [shown, symptom]
    further = [symptom] if symptom[0] != "refcount" else []
    assert symptom_numbers(tmp_path, f"{COUNTED}\nI read the code.\n\n{below}\n") == [
        shown,
        *further,
    ]
    text = f"{COUNTED}rmmod: busy\n\n{below}\n"
    further = [symptom] if symptom[0] in ("panic", "splat") else []
    assert symptom_numbers(tmp_path, text) == [shown, ("output", 2, None), *further]


def test_output_of_an_unknown_program_claims_nothing(tmp_path: Path) -> None:
    text = "# modprobe x\n# iommu-top --once\nSegmentation fault (core dumped)\n"
    assert symptom_numbers(tmp_path, text) == []


@pytest.mark.parametrize(
    ("query", "is_claim"), [("lsmod | grep x_y", True), ("dmesg | tail -3", False)]
)
def test_empty_lsmod_output_after_an_error_is_a_claim(
    tmp_path: Path, query: str, is_claim: bool
) -> None:
    busy = "# modprobe x-y\n# rmmod x_y\nrmmod: ERROR: Module x_y is in use\n"
    found = symptom_numbers(tmp_path, f"{busy}# {query}\n#\n")
    assert found == [("error", 1, None)] + [("silence", 2, None)] * is_claim


@pytest.mark.parametrize(
    "line",
    ["ok " + "a" * 4000 + "/", "1." * 2000 + " is", "refcount of " + "a_" * 2000, "a_" * 2000],
)
def test_read_parses_pathological_lines_within_two_seconds(tmp_path: Path, line: str) -> None:
    start = time.monotonic()
    symptom_numbers(tmp_path, f"{line}\n\n# cat a\n{line}\n# rmmod a\n\n{line}\n")
    assert time.monotonic() - start < 2
