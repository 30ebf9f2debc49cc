"""``annotationrun gc``: what can go from a staging store."""

from collections import Counter
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.staging.store import open_store
from annotationrun_worker.staging.sweep import Sweep, delete


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
) -> None:
    """Delete what killed workers left in a staging store.

    Others may be at work meanwhile. Answers and results stay, unless --unused-days says otherwise.
    """
    store, console = open_store(staging), Console()
    if store.folder is not None and not store.folder.is_dir():
        raise ConfigurationError(f"there is no staging folder {staging!r}; name the one that a run printed")
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
