"""Metrics of servers that count in odd ways: what is no count is left out, the rest is told."""

import random

import pytest
from tests.support.attacks import measured, row

from annotationrun_worker.vlm.server import ServerCounts

LINE = 'vllm:mm_cache_hits_total{engine="0",model_name="m"} '


@pytest.mark.parametrize(
    "value",
    ["+Inf", "-Inf", "NaN", "-1", "-1e300", "1e300", str(2**60), "9" * 400, "one", "", "0x10", "\0"],
)
def test_a_value_that_is_no_count_is_left_out(printed, value):
    with measured() as cost:
        found = ServerCounts.read(f"{LINE}{value}\n{LINE}3\n")
    row(printed, f"/metrics with {value[:20]!r}", f"{found.image_hits} hits", cost)
    assert found == ServerCounts(image_hits=3)


@pytest.mark.parametrize(
    "line",
    [
        "vllm:mm_cache_hits_total",
        "vllm:mm_cache_hits_total{",
        'vllm:mm_cache_hits_total{engine="0} 5',
        "vllm:mm_cache_hits_total}{ 5",
        "vllm:mm_cache_hits_total 5 # {",
        LINE[:-2] + ',more="' + "x" * 100_000 + '"} 5',
        LINE.replace("vllm", " vllm", 1) + "\ud800",
    ],
)
def test_a_line_that_is_odd_takes_no_other_along(line):
    assert ServerCounts.read(f"{line}\n{LINE}3\n").image_hits in {3, 8}
    assert ServerCounts.read(f"{LINE}3\n{line}").image_hits in {3, 8}


def test_a_page_without_end_is_read_in_part(printed):
    with measured() as cost:
        found = ServerCounts.read(f"{LINE}1\n" * 60_000)
    row(printed, "/metrics of 60,000 counters", f"{found.image_hits} hits", cost)
    assert found == ServerCounts(image_hits=1000)
    assert cost.more_mebibytes < 64


def test_no_mutation_of_a_page_is_a_traceback(printed):
    seed, count = 20_160, 2000
    chance = random.Random(seed)
    with measured() as cost:
        for _ in range(count):
            characters = list(f"{LINE}5.0")
            for _ in range(chance.randint(1, 6)):
                place = chance.randint(len("vllm:mm_cache_hits_total"), len(characters))
                characters[place : place + chance.randint(0, 2)] = chance.choice(
                    '{}",=\\ \t#0eE+-.\x00NaInf\r\xe9'
                )
            found = ServerCounts.read("".join(characters))
            assert found is None or 0 <= found.image_hits <= 2**53
    row(printed, f"/metrics, {count} mutations of a line, seed {seed}", "no traceback", cost)
