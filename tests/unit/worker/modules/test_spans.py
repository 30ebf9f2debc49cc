import numpy as np
import pytest

from annotationrun_worker.modules.prompt_media import Window
from annotationrun_worker.modules.segments import (
    RawSpan,
    clean_spans,
    lies_outside,
    to_subtasks,
    usable_spans,
)

TIMESTAMPS = (np.arange(301) / 10).astype(np.float32)
FIRST = Window(frames=tuple(range(0, 150, 5)), zero_seconds=0.0, end_seconds=15.0)
SECOND = Window(frames=tuple(range(150, 301, 5)), zero_seconds=15.0, end_seconds=30.0)


def cleaned(first, second=(), min_seconds=1.5, max_per_window=8):
    spans = usable_spans([RawSpan(*span) for span in first], FIRST, 0, "a")
    spans += usable_spans([RawSpan(*span) for span in second], SECOND, 1, "b")
    spans = clean_spans(spans, min_seconds, max_per_window)
    return [(span.text, round(span.start_seconds, 3), round(span.end_seconds, 3)) for span in spans]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(
            [("pick", 0, 5), ("place", 5, 15)], [], [("pick", 0, 5), ("place", 5, 15)], id="good ones stay"
        ),
        pytest.param(
            [("pick", 5, 0), ("place", 5, 15)], [], [("pick", 0, 5), ("place", 5, 15)], id="reversed ends"
        ),
        pytest.param([("", 0, 5), ("  ", 1, 2), ("pick", 0, 15)], [], [("pick", 0, 15)], id="without a text"),
        pytest.param(
            [("pick", float("nan"), 5), ("pick", 0, float("inf")), ("place", 0, 9)],
            [],
            [("place", 0, 9)],
            id="not a number",
        ),
        pytest.param([("pick", -3, 99)], [], [("pick", 0, 15)], id="clamped to the window"),
        pytest.param([("place", 5, 15), ("pick", 0, 5)], [], [("pick", 0, 5), ("place", 5, 15)], id="sorted"),
        pytest.param([("pick  up\nit", 0, 15)], [], [("pick up it", 0, 15)], id="white space folded"),
        pytest.param(
            [("a", 0, 15)],
            [("b", 0, 15)],
            [("a", 0, 15), ("b", 15, 30)],
            id="a window's zero is its first sample",
        ),
        pytest.param(
            [("a", 0, 5), ("Push it", 5, 15)],
            [("push it ", 0, 4), ("c", 4, 15)],
            [("a", 0, 5), ("Push it", 5, 19), ("c", 19, 30)],
            id="equal text over an edge is one",
        ),
        pytest.param(
            [("a", 0, 5), ("a", 5, 15)],
            [],
            [("a", 0, 5), ("a", 5, 15)],
            id="equal text within a window stays two",
        ),
        pytest.param(
            [("a", 0, 5), ("b", 5, 6), ("c", 6, 15)],
            [],
            [("a", 0, 6), ("c", 6, 15)],
            id="a short one joins the previous",
        ),
        pytest.param([("a", 0, 1), ("b", 1, 15)], [], [("b", 0, 15)], id="a short first one joins the next"),
        pytest.param(
            [("a", 0, 5), ("c", 5, 6), ("c", 6, 15)],
            [],
            [("a", 0, 5), ("c", 5, 15)],
            id="a short one joins equal text before the previous",
        ),
        pytest.param(
            [(f"step {i}", i * 0.4, (i + 1) * 0.4) for i in range(12)],
            [],
            [("step 1", 0.0, 4.8)],
            id="twelve of 0.4 s: the first joins the next, the others the previous",
        ),
        pytest.param([("a", 0, 0.3), ("b", 0.3, 0.6)], [], [("b", 0, 0.6)], id="one stays if all are short"),
        pytest.param(
            [("a", 0, 5), ("b", 20, 25), ("c", -9, -5)],
            [],
            [("a", 0, 5)],
            id="outside the window was not seen",
        ),
    ],
)
def test_cleaning(first, second, expected):
    assert cleaned(first, second) == expected


def test_too_many_in_a_window_join_the_shortest_first():
    spans = [("a", 0, 4), ("b", 4, 6), ("c", 6, 9), ("d", 9, 15)]
    assert cleaned(spans, max_per_window=3) == [("a", 0, 6), ("c", 6, 9), ("d", 9, 15)]
    assert cleaned(spans, max_per_window=2) == [("a", 0, 9), ("d", 9, 15)]


def test_the_limit_counts_by_window():
    spans = [("a", 0, 7), ("b", 7, 15)]
    assert len(cleaned(spans, [("c", 0, 7), ("d", 7, 15)], max_per_window=2)) == 4


def test_a_length_of_the_minimum_within_rounding_is_long_enough():
    assert len(cleaned([("a", 0.1, 1.6), ("b", 1.6, 3.1)])) == 2


def test_subtasks_cover_the_episode_from_its_first_frame():
    spans = usable_spans([RawSpan("a", 2.0, 5.0), RawSpan("b", 7.04, 9.0)], FIRST, 0, "a")
    assert [(s.text, s.frame) for s in to_subtasks(spans, TIMESTAMPS)] == [("a", 0), ("b", 70)]


def test_starts_on_one_frame_are_moved_apart():
    spans = usable_spans([RawSpan("a", 0, 0), RawSpan("b", 0.01, 3), RawSpan("c", 0.02, 4)], FIRST, 0, "a")
    assert [s.frame for s in to_subtasks(spans, TIMESTAMPS)] == [0, 1, 2]


def test_a_start_pushed_past_the_last_frame_is_dropped():
    spans = usable_spans([RawSpan("a", 0, 1), RawSpan("b", 1, 2)], FIRST, 0, "a")
    assert [s.text for s in to_subtasks(spans, TIMESTAMPS[:1])] == ["a"]


@pytest.mark.parametrize(
    ("span", "is_outside"),
    [
        pytest.param(RawSpan("a", 0, 15), False, id="the whole window"),
        pytest.param(RawSpan("a", 7, 15.4), False, id="its end rounded"),
        pytest.param(RawSpan("a", 7, 16), False, id="rounded to the next second"),
        pytest.param(RawSpan("a", -0.5, 7), False, id="its start rounded"),
        pytest.param(RawSpan("a", 7, 16.5), True, id="it ends later than rounding explains"),
        pytest.param(RawSpan("a", 16.5, 7), True, id="the same with its ends reversed"),
        pytest.param(RawSpan("a", -1.5, 7), True, id="it begins earlier than rounding explains"),
        pytest.param(RawSpan("a", 15.0, 20.0), True, id="the episode's time in the second window"),
        pytest.param(RawSpan("a", 0, 5000), True, id="milliseconds from the window's start"),
        pytest.param(RawSpan(" ", 0, 5000), False, id="without a text: it is left out anyway"),
    ],
)
def test_a_span_lies_outside_if_more_than_rounding_takes_it_there(span, is_outside):
    assert lies_outside(span, SECOND) is is_outside
