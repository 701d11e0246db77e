# SPDX-License-Identifier: GPL-2.0-only
"""The recorded compile command of an object, and its table of source lines."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.symbols import recipe, table
from harness.symbols.table import Scope, Table

COMMAND = "ccache aarch64-linux-gnu-gcc -Wp,-MMD,{d}/.x.o.d -DNAME='\"a;b\"' -c -o {o} /src/x.c"


@pytest.mark.parametrize(
    ("name", "target", "variable", "suffix"),
    [
        ("drivers/x.o", "drivers/x.o", "cmd_", ""),
        ("drivers/x.o", "drivers/x.o", "savedcmd_", " ; ./tools/objtool x"),
        ("guest-modules/x.o", "{root}/guest-modules/x.o", "savedcmd_", " && true"),
        ("guest-modules/x.o", "x.o", "savedcmd_", ""),
    ],
)
def test_a_recipe_returns_the_command_for_another_path_with_debug_information(
    tmp_path: Path, name: str, target: str, variable: str, suffix: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    target = target.format(root=tmp_path)
    saved = COMMAND.format(d=path.parent, o=target)
    path.with_name(".x.o.cmd").write_text(f"{variable}{target} := {saved}{suffix}\n\nsource := y\n")
    found = recipe.read(tmp_path, path)
    assert found
    assert found.directory / target == path
    words = found.with_debug_information(Path("/elsewhere/x.o"))
    assert words == [
        *("ccache", "aarch64-linux-gnu-gcc", '-DNAME="a;b"', "-c"),
        *("-o", "/elsewhere/x.o", "/src/x.c", "-g"),
    ]


@pytest.mark.parametrize(
    "text", ["", "cmd_x.o := ld -r -o x.o a.o b.o", "cmd_x.o := gcc 'unended", "\x00\xff", "x"]
)
def test_read_returns_no_recipe_without_a_compile_command(tmp_path: Path, text: str) -> None:
    (tmp_path / ".x.o.cmd").write_text(text)
    assert recipe.read(tmp_path, tmp_path / "x.o") is None


PLACES = st.tuples(st.text(), st.integers(0, 1 << 20))


SCOPES = st.builds(
    Scope,
    st.text(),
    st.integers(-1, 3),
    PLACES,
    st.lists(st.tuples(st.integers(), st.integers())).map(tuple),
)


@given(st.lists(PLACES, max_size=5), st.lists(SCOPES, max_size=5))
def test_load_restores_a_dumped_table(places: list[tuple[str, int]], scopes: list[Scope]) -> None:
    found = {"x": Table(tuple(range(len(places))), tuple(places), tuple(scopes))}
    assert table.load(json.loads(json.dumps(table.dump(found)))) == found
