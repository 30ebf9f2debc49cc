"""Text of others is shown escaped."""

import pytest

from annotationrun_worker.plain_text import plain_line, plain_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pick up the red cup", "pick up the red cup"),
        ("die grüne Tasse - 赤い 🤖", "die grüne Tasse - 赤い 🤖"),
        ("[red]cup[/red]", "[red]cup[/red]"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("a\nERROR: forged", r"a\nERROR: forged"),
        ("a\r\tb", r"a\r\tb"),
        ("\x9b31m", r"\x9b31m"),
        ("abc\u202ecba", r"abc\u202ecba"),
        ("line\u2028end", r"line\u2028end"),
        ("name\udcff", r"name\udcff"),
        ("\0", r"\x00"),
    ],
)
def test_what_a_terminal_would_not_show_is_escaped(text: str, shown: str) -> None:
    assert plain_line(text) == shown
    plain_line(text).encode()


def test_several_lines_stay_so() -> None:
    assert plain_lines("one\n\x1btwo\n") == "one\n\\x1btwo\n"
