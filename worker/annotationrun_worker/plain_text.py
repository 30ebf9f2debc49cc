"""Text of others (datasets, servers, file names) as it may stand on a terminal and in a log."""


def plain_line(text: str) -> str:
    r"""``text`` on one line: whatever a terminal would not show as a character is escaped.

    A line end becomes ``\n``, an escape ``\x1b``, half of a surrogate pair ``\udcff``; marks that turn the
    direction of text are escaped too. So nothing forges a line of a log or moves the cursor.
    """
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def plain_lines(text: str) -> str:
    """The same for text of several lines, which stay so."""
    return "\n".join(map(plain_line, text.split("\n")))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
