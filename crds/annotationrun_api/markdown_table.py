"""Markdown of the generated documents: tables as GitHub reads them (https://github.github.com/gfm/#tables-extension-)."""

from collections.abc import Iterable, Sequence


def code(text: str) -> str:
    """A code span; the text holds no backtick."""
    return f"`{text}`"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a line for each row; a pipe in a cell is escaped, in a code span too."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
