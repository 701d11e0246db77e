# SPDX-License-Identifier: GPL-2.0-only
"""Shell sessions in text: prompts, commands, output and exit statuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report import lines, session
from harness.report.session import Session


def sessions(text: str) -> list[Session]:
    return session.find(lines.parse(text))


def commands(text: str) -> list[list[str]]:
    return [list(each.texts) for each in sessions(text)]


@pytest.mark.parametrize(
    "prompt",
    [
        "$ ",
        "# ",
        "/ # ",
        "~ # ",
        "root@host:~# ",
        "[root@host ~]# ",
        "me@box:/sys$ ",
        "bash-5.2# ",
        "host:~ # ",
        "root@(none):~# ",
        "[root@(none) /]# ",
        "me@box ~/linux (master)> ",
        "me@box ~/linux (master) [1]> ",
        "1|console:/ # ",
        "[0] root@host:~# ",
    ],
)
def test_find_recognises_prompts_of_many_shells(prompt: str) -> None:
    text = (
        f"I did:\n\n{prompt}modprobe arm-smmu-v3\n"
        f"{prompt}rmmod arm-smmu-v3\nrmmod: busy\n\nThanks\n"
    )
    (found,) = sessions(text)
    assert found.texts == ("modprobe arm-smmu-v3", "rmmod arm-smmu-v3")
    assert found.commands[1].output == ("rmmod: busy",)


@pytest.mark.parametrize(
    ("upper", "lower"),
    [
        ("\u256d\u2500root@vm /sys/kernel", "\u2570\u2500# "),
        ("\u256d\u2500root@vm /sys/kernel \u2039main\u203a", "\u2570\u2500\u276f "),
        ("\u250c\u2500\u2500(root\u327fvm)-[/sys/kernel]", "\u2514\u2500# "),
    ],
)
def test_find_reads_directory_and_host_from_a_two_line_prompt(upper: str, lower: str) -> None:
    (found,) = sessions(
        f"{upper}\n{lower}ls iommu_groups\n0\n\n{upper}\n{lower}rmmod x\nrmmod: busy\n\nThanks\n"
    )
    assert found.texts == ("ls iommu_groups", "rmmod x")
    assert [each.output for each in found.commands] == [("0",), ("rmmod: busy",)]
    assert {each.directory for each in found.commands} == {"/sys/kernel"}
    assert found.host == "vm"


@pytest.mark.parametrize(
    "question",
    ["[sudo] password for joe: ", "[sudo] Passwort f\u00fcr joe: ", "[sudo: x] Password: "],
)
def test_the_password_prompt_of_sudo_is_not_output(question: str) -> None:
    (found,) = sessions(f"$ sudo cat /x\n{question}\n1\n$ sudo true\n")
    assert found.commands[0].output == ("1",)


@pytest.mark.parametrize(
    "stamp",
    ["2026-02-11 10:22 <{}> ", "[10:22] <@{}> ", "10:22 <{}> ", "10:22:11      {} | "],
)
def test_other_speakers_in_a_chat_are_not_output(stamp: str) -> None:
    joe, kai = stamp.format("joe"), stamp.format("kai")
    (found,) = sessions(f"{joe}# rmmod x\n{joe}rmmod: busy\n{kai}looks normal\n{joe}# lsmod\n")
    assert found.texts == ("rmmod x", "lsmod")
    assert found.commands[0].output == ("rmmod: busy",)


def test_find_drops_escape_sequences_in_caret_notation() -> None:
    assert commands("/ # ^[[6nrmmod x\n/ # ^[[6n\n") == [["rmmod x"]]


def test_a_redirection_in_a_here_document_is_not_a_prompt() -> None:
    (found,) = sessions(
        "# cat > /t <<EOF\necho 1 > /sys/x\nEOF\n# cat > /t <<EOF\n> echo 2\n> EOF\n"
    )
    assert found.texts == (
        "cat > /t <<EOF\necho 1 > /sys/x\nEOF",
        "cat > /t <<EOF\necho 2\nEOF",
    )


@pytest.mark.parametrize(
    "line",
    [
        "# ARM IOMMU support",
        "# Find out what the driver does.",
        "#include <linux/iommu.h>",
        "$ 5 is what I paid",
        "    [    1.234] modprobe: hello",
        "+# modprobe arm-smmu-v3",
        " 3 files changed, 5 insertions(+), 2 deletions(-)",
        "modprobe arm-smmu-v3",
        "Call trace:",
    ],
)
def test_comments_prose_logs_and_diffs_are_not_commands(line: str) -> None:
    assert commands(f"Hello\n\n{line}\n\nBye\n") == []


def test_commands_in_a_diff_are_not_a_session() -> None:
    text = """\
diff --git a/doc b/doc
--- a/doc
+++ b/doc
@@ -1,4 +1,4 @@
 how to:
 $ modprobe arm-smmu-v3
-# rmmod arm-smmu-v3
+# modprobe -r arm-smmu-v3
 end
after it:
$ uname -r
"""
    assert commands(text) == [["uname -r"]]


def test_commands_in_a_quoted_diff_are_not_a_session() -> None:
    text = "> @@ -1,2 +1,2 @@\n>  # modprobe a\n> +# modprobe b\n> $ uname -r\n"
    assert commands(text) == [["uname -r"]]


def deduplicated(text: str) -> list[Session]:
    return session.drop_repeats(sessions(text))


def test_drop_repeats_drops_a_quoted_repeat() -> None:
    first = "    $ modprobe a\n    $ modprobe b\n    no\n"
    text = f"{first}\nHe wrote:\n> >   $ modprobe a\n> >   $ modprobe b\n"
    (found,) = deduplicated(text)
    assert found.commands[1].output == ("no",)


def test_drop_repeats_keeps_the_original_instead_of_an_earlier_quotation() -> None:
    (found,) = deduplicated("> $ modprobe a\n> cut\n\nand so:\n\n$ modprobe a\nno\n")
    assert (found.quoted, found.commands[0].output) == (False, ("no",))


def test_drop_repeats_keeps_equal_commands_with_different_output() -> None:
    before, after = deduplicated("$ rmmod a\nno\n\nPatched:\n\n$ rmmod a\n\nBye\n")
    assert (before.commands[0].output, after.commands[0].output) == (("no",), ())
    assert len(deduplicated("$ ls\nx\n\nonce more\n\n$ ls\nx\n")) == 1


def test_find_returns_a_session_that_is_only_quoted() -> None:
    assert commands("On Monday X wrote:\n> $ modprobe a\n> oops\n>\n> Why?\n") == [["modprobe a"]]


@pytest.mark.parametrize(
    ("reply", "continues"),
    [("$ lsmod | grep a\na 1 2\n", True), ("$ modprobe b\n$ lsmod | grep a\na 1 2\n", False)],
)
def test_a_reply_that_only_queries_continues_the_quoted_session(
    reply: str, continues: bool
) -> None:
    quoted = "On Monday X wrote:\n> > $ modprobe a\n> > $ rmmod a\n> > no\n>\n> And lsmod?\n\n"
    assert (len(sessions(quoted + reply)) == 1) is continues


def test_blank_lines_between_prompts_do_not_end_a_session() -> None:
    text = "$ modprobe a\n[ 1.0] hello\n\n$ rmmod a\n\n\nSo it goes.\n"
    (found,) = sessions(text)
    assert found.texts == ("modprobe a", "rmmod a")
    assert found.commands[0].output == ("[ 1.0] hello",)
    assert found.commands[1].output == ()


def test_prose_between_commands_does_not_split_a_session() -> None:
    assert commands("$ modprobe a\n\nThen I did\n\n$ rmmod a\n") == [["modprobe a", "rmmod a"]]


@pytest.mark.parametrize(
    "prose",
    [
        "With the patch applied:",
        "After a reboot",
        "On the other machine I see",
        "On 6.1 it is",
        "Expected:",
    ],
)
def test_prose_about_another_setup_splits_sessions(prose: str) -> None:
    text = f"$ modprobe a\n\n{prose}\n\n$ rmmod a\n"
    assert commands(text) == [["modprobe a"], ["rmmod a"]]


def test_prose_after_an_indented_session_is_not_output() -> None:
    (found,) = sessions("    $ ls\n    file\n\n    more\nCause:\n    because\n")
    assert found.commands[0].output == ("file", "", "more")


def test_a_bracketed_number_is_an_exit_status_as_in_cram() -> None:
    (found,) = sessions("  $ false\n  [1]\n  $ true\n  $ echo [2]\n  [2]\n  [0]\n")
    assert [(c.status, c.output) for c in found.commands] == [(1, ()), (None, ()), (0, ("[2]",))]


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("$ for i in 1 2\n> do echo $i\n> done\n1\n2\n", "for i in 1 2\ndo echo $i\ndone"),
        (
            "  $ for i in 1 2; do\n  >   echo $i\n  > done\n  1\n  2\n",
            "for i in 1 2; do\n  echo $i\ndone",
        ),
        ("# echo one \\\n  two\n1\n2\n", "echo one \\\n  two"),
        ("$ echo 'a\nb'\n1\n2\n", "echo 'a\nb'"),
    ],
)
def test_a_command_includes_its_continuation_lines(text: str, command: str) -> None:
    (found,) = sessions(text)
    assert found.texts == (command,)
    assert found.commands[0].output == ("1", "2")


def test_find_returns_the_line_numbers_of_commands() -> None:
    (found,) = sessions("one\ntwo\n  $ ls\n  x\n  $ pwd\n")
    assert [command.line for command in found.commands] == [3, 5]


@given(st.text(max_size=400))
def test_find_returns_no_empty_command_for_any_text(text: str) -> None:
    for each in sessions(text):
        assert all(command.text for command in each.commands)


PIECES = st.sampled_from(
    [
        "$ ls",
        "# modprobe x",
        "> ",
        "  ",
        "\n",
        "@@ -1,3 +1,3 @@",
        "'",
        "for i in",
        "done",
        "\\",
        "[1]",
    ]
)


@given(st.lists(PIECES, max_size=60))
def test_find_accepts_any_mixture_of_shell_fragments(pieces: list[str]) -> None:
    sessions("".join(pieces))
    sessions("\n".join(pieces))


@pytest.mark.parametrize(
    "command",
    [
        "echo look for me",
        "dmesg | grep -c if",
        "for d in a b; do echo ${d##*/}; done",
        "if [ $# = 0 ]; then echo x; fi",
        "echo it's",
        "echo $?",
        "cd ..",
        "ls .",
        "modprobe -r x; echo $?",
    ],
)
def test_a_complete_command_ends_on_its_line(command: str) -> None:
    (found,) = sessions(f"# {command}\nout\n# uname\n")
    assert found.texts == (command, "uname")
    assert found.commands[0].output == ("out",)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("$ cat <<EOF\n> a\n> EOF\na\n", "cat <<EOF\na\nEOF"),
        ("  $ cat <<'END'\n  a\n  END\n  a\n", "cat <<'END'\na\nEND"),
        ("$ echo a |\n> cat\na\n", "echo a |\ncat"),
        ("$ (echo a\n> )\na\n", "(echo a\n)"),
    ],
)
def test_an_incomplete_command_continues_on_the_next_lines(text: str, command: str) -> None:
    (found,) = sessions(text)
    assert found.texts == (command,)
    assert found.commands[0].output == ("a",)


@pytest.mark.parametrize(
    "comment",
    ["# wait for the device to appear", "# test that it is busy", "# then unload it again"],
)
def test_comments_before_a_session_are_not_commands(comment: str) -> None:
    assert commands(f"{comment}\n\n$ ls\n") == [["ls"]]


def test_a_truncated_quoted_hunk_ends_with_its_quotation() -> None:
    assert commands("> @@ -1,9 +1,9 @@\n> -a\n>  b\n\n $ modprobe x\n") == [["modprobe x"]]


def test_a_number_in_the_prompt_is_the_previous_status() -> None:
    (found,) = sessions(
        "[0] root@vm:~# modprobe x\n[0] root@vm:~# rmmod x\n[1] root@vm:~# cat y\n2\n"
        "[0] root@vm:~#\n"
    )
    assert [each.next_status for each in found.commands] == [0, 1, 0]


@pytest.mark.parametrize("numbers", [(0, 1, 2), (1, 1, 1), (0, 0, 0), (41, 42, 43)])
def test_counters_and_constants_in_prompts_are_not_statuses(numbers: tuple[int, ...]) -> None:
    (found,) = sessions("".join(f"[{n}] root@vm:~# modprobe x\n" for n in numbers))
    assert {each.next_status for each in found.commands} == {None}


def test_find_recognises_an_arrow_prompt_with_a_home_directory() -> None:
    (found,) = sessions("\u279c  ~ modprobe x\n\u279c  ~ cat y\n2\n\u279c  ~\n")
    assert found.texts == ("modprobe x", "cat y")
    assert found.commands[1].output == ("2",)


def test_parentheses_after_a_prompt_are_a_subshell_or_a_remark() -> None:
    (found,) = sessions("# modprobe x\n# (echo virtio1 > /sys/unbind)\nSegmentation fault\n")
    assert found.texts == ("modprobe x", "(echo virtio1 > /sys/unbind)")
    (found,) = sessions("# modprobe x\n# (see below for more)\n")
    assert found.texts == ("modprobe x",)


def test_a_number_after_the_directory_is_the_previous_status() -> None:
    text = "root@box:~ 0 # true\nroot@box:~ 0 # false\nroot@box:~ 1 # true\nroot@box:~ 0 #\n"
    (found,) = sessions(text)
    assert found.texts == ("true", "false", "true")
    assert [command.next_status for command in found.commands] == [0, 1, 0]


def test_a_bracketed_fish_status_is_the_previous_status() -> None:
    text = "root@box ~# false\nroot@box ~ [1]# true\nroot@box ~# false | true\nroot@box ~ [1|0]#"
    (found,) = sessions(text)
    assert [command.next_status for command in found.commands] == [1, None, 0]


@pytest.mark.parametrize("output", ["1", "a/b", "x.y"])
def test_find_recognises_a_prompt_directly_after_output(output: str) -> None:
    text = f"root@box:~# true\nroot@box:~# printf {output}\n{output}root@box:~# true\n"
    (found,) = sessions(text)
    assert [command.output for command in found.commands] == [(), (output,), ()]


def test_find_recognises_the_prompt_of_a_second_user() -> None:
    text = "root@box:~# true\nbroot@box:~# true\nbroot@box:~# true\nroot@box:~# true\n"
    (found,) = sessions(text)
    assert len(found.commands) == 4


@pytest.mark.parametrize(
    "remark", ["ok so now", "hm weird", "and then", "hmm", "Now the NIC.", "let's see, the count"]
)
def test_chat_remarks_between_commands_are_not_output(remark: str) -> None:
    (found,) = sessions(f"# rmmod a\n{remark}\n# cat b\n1\n{remark}\n# true\n")
    assert [command.output for command in found.commands] == [(), ("1",), ()]


@pytest.mark.parametrize("output", ["ok", "ok 1 - loads", "no such device", "wait: 3", "I/O error"])
def test_find_keeps_program_output_that_resembles_a_remark(output: str) -> None:
    (found,) = sessions(f"# prove x\n# ./t.sh && echo ok\n{output}\n# true\n")
    assert found.commands[-2].output == (output,)


def test_echoed_text_is_not_a_remark() -> None:
    (found,) = sessions("# echo and then\nand then\n# true\n")
    assert found.commands[0].output == ("and then",)
