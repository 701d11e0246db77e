# SPDX-License-Identifier: GPL-2.0-only
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.machine import frames

KINDS = st.sampled_from([b"O", b"E", b"S", b"K"])
FRAMES = st.lists(st.tuples(KINDS, st.binary(max_size=200)), max_size=20)


def encoded(items: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(kind + str(len(data)).encode() + b"\n" + data for kind, data in items)


@given(FRAMES)
def test_parse_separates_frames_by_kind(items: list[tuple[bytes, bytes]]) -> None:
    found, rest = frames.parse(encoded(items))
    assert rest == b""
    assert bytes(found.out) == b"".join(data for kind, data in items if kind == b"O")
    assert bytes(found.err) == b"".join(data for kind, data in items if kind == b"E")
    assert bytes(found.state) == b"".join(data for kind, data in items if kind == b"S")
    assert found.records == [data for kind, data in items if kind == b"K"]
    assert found.noise == b""


@given(FRAMES, st.integers(min_value=0))
def test_parse_resumes_a_stream_that_is_split_anywhere(
    items: list[tuple[bytes, bytes]], cut: int
) -> None:
    data = encoded(items)
    cut %= len(data) + 1
    first, rest = frames.parse(data[:cut])
    second, end = frames.parse(rest + data[cut:])
    assert end == b""
    assert first.records + second.records == [p for kind, p in items if kind == b"K"]
    assert bytes(first.out + second.out) == b"".join(p for kind, p in items if kind == b"O")


@given(st.binary(max_size=2000))
def test_parsing_hostile_bytes_duplicates_no_data(data: bytes) -> None:
    found, rest = frames.parse(data)
    parsed = (
        len(found.out + found.err + found.state) + sum(map(len, found.records)) + len(found.noise)
    )
    assert parsed + len(rest) <= len(data)
    if b"\n" not in data:  # a newline ends the header of a frame
        assert bytes(found.noise) + rest == data


def test_parse_returns_kernel_messages_between_frames_as_noise() -> None:
    found, rest = frames.parse(b"O3\nabc[    1.0] hello\r\nE1\nx")
    assert (bytes(found.out), bytes(found.err), rest) == (b"abc", b"x", b"")
    assert bytes(found.noise) == b"[    1.0] hello\r\n"


def test_parse_returns_an_incomplete_frame_as_the_rest() -> None:
    found, rest = frames.parse(b"O999999999\nabc")
    assert found.out == b""
    assert rest == b"O999999999\nabc"


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])))
def test_command_sends_its_length_in_bytes(command: str) -> None:
    request = frames.command(command)
    head, _, body = request.data.partition(b"\n")
    assert int(head.split()[-1]) == len(body)
    assert body.decode() == command


def test_the_echo_of_a_command_does_not_match_a_reply() -> None:
    request = frames.command("echo")
    assert request.nonce.encode() not in request.data
    assert frames.DONE.search(request.data) is None


def test_done_parses_a_reply() -> None:
    match = frames.DONE.search(b"O1\nxD 0123456789abcdef01234567 killed 11 42 1500000\n")
    assert match
    assert frames.done(match) == frames.Done("0123456789abcdef01234567", "killed", 11, 42, 1.5)


def test_command_rejects_a_nul_byte() -> None:
    with pytest.raises(UsageError, match="NUL"):
        frames.command("echo \0")
