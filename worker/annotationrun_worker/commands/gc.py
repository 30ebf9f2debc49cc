"""``annotationrun gc``: what can go from a staging store."""

import os
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from annotationrun_worker.commands.output import print_line
from annotationrun_worker.errors import ConfigurationError, StagingError
from annotationrun_worker.staging.gc import Sweep, check_objects, delete, delete_damaged
from annotationrun_worker.staging.seal import read_seal
from annotationrun_worker.staging.store import StagingStore, open_store


def gc(
    staging: Annotated[str, typer.Argument(help="The staging folder, or the URI of an object store.")],
    unused_days: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Also delete answers, plans with their progress, counts of requests, and results that no "
            "merged dataset came from, when they are older than this; a run that needs them asks again.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Delete nothing, but read every object and name each that is empty, cut or damaged; exits 7 "
            "if one is.",
        ),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="With --check: delete the damaged objects that a run makes anew, asking the model again for "
            "answers.",
        ),
    ] = False,
) -> None:
    """Delete what killed workers left in a staging store.

    Others may be at work meanwhile. Answers and results stay, unless --unused-days says otherwise.
    """
    if check and (dry_run or unused_days is not None):
        raise typer.BadParameter("--check deletes nothing unused: leave out --dry-run and --unused-days")
    if repair and not check:
        raise typer.BadParameter("--repair goes with --check")
    store, console = open_store(staging, read_seal(os.environ)), Console()
    if store.folder is not None and not store.folder.is_dir():
        raise ConfigurationError(f"there is no staging folder {staging!r}; name the one that a run printed")
    if check:
        _check(store, console, repair=repair)
        return
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for garbage in Sweep(store, datetime.now(UTC), unused_days).find():
        if not dry_run:
            delete(store, garbage)
        counts[garbage.kind] += 1
        sizes[garbage.kind] += garbage.size_bytes
    verb = "would go" if dry_run else "deleted"
    for kind, count in sorted(counts.items()):
        console.print(f"{kind}: {count} {verb}, {sizes[kind]} bytes", highlight=False)
    if not counts:
        console.print("nothing to delete", highlight=False)


def _check(store: StagingStore, console: Console, *, repair: bool) -> None:
    """Name every damaged object; ``repair`` deletes those that are made anew.

    Raises:
        StagingError: one is damaged, and still there.
    """
    count = damaged = deleted = 0
    for found in check_objects(store):
        count += 1
        if not found.damage:
            continue
        damaged += 1
        is_deleted = repair and delete_damaged(store, found)
        deleted += is_deleted
        done = "deleted" if is_deleted else found.kept_because or "a run makes it anew, or does without"
        print_line(console, f"damaged: {found.path}: {found.damage}; {done}")
    console.print(f"{count} objects read, {damaged} damaged, {deleted} deleted", highlight=False)
    if damaged > deleted:
        raise StagingError(
            f"{damaged - deleted} objects in {store.location!r} are damaged; a run that needs one makes it "
            "anew, gc --check --repair deletes those that can be made anew"
        )
