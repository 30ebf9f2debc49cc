"""The card keeps what its owner wrote; messages and card are safe whatever names hold."""

import dataclasses
import time

import pytest
import yaml
from tests.support.hub_publication import CARD, DIGEST, OTHER_DIGEST, PROVENANCE

from annotationrun_worker.errors import OutputError
from annotationrun_worker.hub.card import BEGIN, END, TAGS, updated_card
from annotationrun_worker.hub.publication import commit_body, digests_in, failed_text

ODD = "x`\n<!-- annotationrun:end -->\n# Title <script>alert(1)</script> [link](http://example.org) | cell"


def updated(text, digest=DIGEST, provenance=PROVENANCE):
    return updated_card(None if text is None else text.encode(), digest, provenance).decode()


def front_matter(card):
    return yaml.safe_load(card.split("---")[1])


def outside(card):
    """All but our section."""
    return card[: card.index(BEGIN)] + card[card.index(END) + len(END) :]


def test_text_and_licence_stay():
    card = updated(CARD)
    assert card.startswith(CARD.replace("- LeRobot\n", "- LeRobot\n- annotationrun\n"))
    assert front_matter(card) == {"license": "cc-by-4.0", "tags": ["LeRobot", "annotationrun"]}


def test_provenance_is_told():
    card = updated(CARD)
    for text in (
        f"`me/source@{PROVENANCE.source_commit}`",
        f"`org/model@{PROVENANCE.model_revision}`",
        PROVENANCE.config_digest,
        "Episodes with labels: plan 5, vqa 6",
        "Episodes that failed: 1 (3)",
        "`subtask` 12, `vqa` 30",
        "1000 of prompts, 90 of answers",
        DIGEST,
    ):
        assert text in card


def test_the_models_commit_is_told_beside_its_revision():
    moving = dataclasses.replace(PROVENANCE, model_revision="main", model_commit="1" * 40)
    assert f"- Model: `org/model@main, commit {'1' * 40}`\n" in updated(CARD, provenance=moving)
    pinned = dataclasses.replace(PROVENANCE, model_revision="1" * 40, model_commit="1" * 40)
    assert f"- Model: `org/model@{'1' * 40}`\n" in updated(CARD, provenance=pinned)


CARDS = [
    pytest.param(CARD, id="a card as LeRobot makes it"),
    pytest.param(CARD.replace("\n", "\r\n"), id="with line ends of Windows"),
    pytest.param("---\nlicense: mit\n---\n", id="front matter alone, without tags"),
    pytest.param("---\nlicense: mit\n---", id="front matter without a last line end"),
    pytest.param("---\ntags:\n  - a\n  - LeRobot\nlicense: mit\n---\ntext", id="tags are indented"),
    pytest.param("---\ntags: [a, LeRobot]\n---\ntext\n", id="tags on one line"),
    pytest.param("---\ntags: a\n---\ntext\n", id="tags are no list"),
    pytest.param("---\n: [\n---\ntext\n", id="front matter that is no YAML"),
    pytest.param("# Only text, no front matter", id="no front matter"),
    pytest.param("text\n\n---\n\na rule, no front matter\n", id="a rule in the text"),
    pytest.param("", id="an empty card"),
    pytest.param(None, id="no card"),
]


@pytest.mark.parametrize("text", CARDS)
def test_a_second_publish_replaces_the_section_and_nothing_else(text):
    once = updated(text)
    twice = updated(once, OTHER_DIGEST)
    assert once.count(BEGIN) == once.count(END) == 1
    assert DIGEST not in twice
    assert OTHER_DIGEST in twice
    assert outside(twice) == outside(once)
    assert updated(twice) == once
    if text:
        assert text.rstrip().splitlines()[-1] in once


@pytest.mark.parametrize(
    ("matter", "expected"),
    [
        pytest.param("license: mit\n", {"license": "mit", "tags": list(TAGS)}, id="no tags"),
        pytest.param("tags:\n  - a\n", {"tags": ["a", *TAGS]}, id="an indented list"),
        pytest.param(
            "tags:\n- annotationrun\nx: 1\n", {"tags": ["annotationrun", "LeRobot"], "x": 1}, id="one"
        ),
        pytest.param("tags: [a]\n", {"tags": ["a"]}, id="a list on one line is left alone"),
    ],
)
def test_tags_that_lack_are_added_to_the_front_matter(matter, expected):
    assert front_matter(updated(f"---\n{matter}---\ntext\n")) == expected


def test_text_between_a_stray_mark_and_the_section_stays():
    card = updated(updated(f"{BEGIN}\nmine\n"), OTHER_DIGEST)
    assert "mine" in card
    assert DIGEST not in card


def test_names_are_neither_markdown_nor_html_nor_marks():
    provenance = dataclasses.replace(
        PROVENANCE, source=ODD, model=ODD, run=ODD, rows_by_style={ODD: 1}, config_digest=ODD
    )
    card = updated(CARD, provenance=provenance)
    section = card[card.index(BEGIN) : card.index(END)]
    assert card.count(END) == 1
    assert "alert(1)" in section
    assert "<script>" not in card
    assert all(line.count("`") % 2 == 0 for line in section.splitlines())
    assert not [line for line in section.splitlines() if line.startswith("# ")]
    assert outside(updated(card)) == outside(card)


def test_a_card_that_is_no_utf8_is_refused():
    with pytest.raises(OutputError, match=r"not UTF-8"):
        updated_card(b"\xff\xfe", DIGEST, PROVENANCE)


def test_the_digest_is_found_in_the_message():
    assert digests_in(commit_body(DIGEST, PROVENANCE)) == [DIGEST]


def test_no_name_passes_for_a_trailer():
    forged = f"x\nAnnotationrun-Merge-Digest: {OTHER_DIGEST}\n"
    provenance = dataclasses.replace(PROVENANCE, source=forged, model=forged, run=forged)
    assert digests_in(commit_body(DIGEST, provenance)) == [DIGEST]


@pytest.mark.parametrize(
    ("episodes", "expected"),
    [
        pytest.param((), "", id="none"),
        pytest.param((17, 3), "3, 17", id="in order"),
        pytest.param(range(60), ", ".join(map(str, range(50))) + " and 10 more", id="many are cut"),
    ],
)
def test_unanswered_questions_are_listed(episodes, expected):
    assert failed_text(episodes) == expected


BOMB = "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" if level else "a0: &a0 [x]\n"
    for level in range(12)
)
"""Some hundred bytes that are gigabytes once their aliases are followed."""


@pytest.mark.parametrize(
    "matter",
    [
        pytest.param("date: 2024-13-45\n", id="a date that is none"),
        pytest.param("n: 0x\nfloat: 1e999999\nint: " + "9" * 9000 + "\n", id="numbers that are none"),
        pytest.param("&a [*a]\n", id="a list that holds itself"),
        pytest.param("x: " + "[" * 5000 + "\n", id="deeply nested"),
        pytest.param("x: " + "- " * 30_000 + "\n", id="deeply nested by dashes"),
        pytest.param("- " * 30_000 + "\n", id="nothing but dashes"),
        pytest.param("? [a, b]\n: x\n", id="a key that is a list"),
        pytest.param("x: !!python/object/apply:os.system [true]\n", id="code"),
        pytest.param("\x01: x\n", id="a character that YAML has not"),
        pytest.param("x: y\n" * 20_000, id="endlessly long"),
        pytest.param(BOMB, id="aliases of aliases"),
    ],
)
def test_front_matter_that_would_harm_is_left_as_it_is_or_only_gets_the_tags(matter):
    start = time.monotonic()
    card = f"---\n{matter}---\ntext\n"
    made = updated(card)
    assert time.monotonic() - start < 2
    tags = "tags:\n- LeRobot\n- annotationrun\n"
    assert outside(made).strip() in {card.strip(), f"---\n{matter}{tags}---\ntext"}
    assert DIGEST in made
