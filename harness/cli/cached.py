# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness cache``: what the cache holds, whether it is whole, and less of it."""

import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from harness.cli import options, output
from harness.host import inventory, paths
from harness.host.inventory import Item

app = typer.Typer(help="The cache: list it, check it, clear it.", no_args_is_help=True)


@app.command("ls")
def ls(as_json: options.Json = False) -> None:
    """What is in the cache: size, days since it was used, what it is."""
    items = inventory.items()
    if as_json:
        output.print_json({"directory": str(paths.cache()), "items": [_record(i) for i in items]})
    else:
        output.say(("", text) for text in _table(items))


@app.command()
def verify(as_json: options.Json = False) -> None:
    """Check every file against what was written. Exit status 1 when something is
    damaged: it is made again when it is next used."""
    found = list(inventory.damaged())
    if as_json:
        rows = [_record(item) | {"problem": problem} for item, problem in found]
        output.print_json({"damaged": rows})
    elif found:
        output.say(("red", f"{item.kind} {item.title}: {problem}") for item, problem in found)
    else:
        output.say([("", "everything is as it was written")])
    raise typer.Exit(1 if found else 0)


@app.command()
def gc(
    days: Annotated[float, typer.Option(min=0, help="What was used since then stays.")] = 30,
    as_json: options.Json = False,
) -> None:
    """Remove what was not used for some days; never what a running command uses."""
    removed = list(inventory.collect(days))
    if as_json:
        output.print_json({"removed": [_record(item) for item in removed]})
        return
    total = output.size(sum(item.size for item in removed))
    output.say(("", text) for text in _table(removed, f"removed, {total}"))


def _record(item: Item) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "key": item.key,
        "title": item.title,
        "bytes": item.size,
        "last_used": item.used,
        "path": str(item.path),
    }


def _table(items: Sequence[Item], heading: str = "") -> Iterator[str]:
    for item in items:
        days = (time.time() - item.used) / 86400
        facts = f"{output.size(item.size):>8}  {days:5.1f} d  {item.kind:<10}"
        yield f"{facts}  {item.key}  {item.title}"
    yield heading or f"{paths.cache()}: {output.size(sum(item.size for item in items))}"
