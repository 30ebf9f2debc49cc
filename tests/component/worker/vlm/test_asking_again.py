"""What is asked again: equal questions at once, those of later attempts, those of another revision."""

import asyncio
from dataclasses import replace

from tests.support.asking import SAMPLING, ask, asker
from tests.support.openai_server import Reply, scripted_server

RED, BLUE, BLACK = (Reply(f'{{"colour": "{colour}"}}') for colour in ("red", "blue", "black"))


def asked(script, folder, questions):
    """What `questions` makes of an asker, and the bodies that the server got."""

    async def run():
        with scripted_server(script) as server:
            async with asker(server.base_url, folder) as one:
                return await questions(one), server.bodies

    return asyncio.run(run())


def test_equal_questions_at_once_are_asked_once(tmp_path):
    async def questions(one):
        return await asyncio.gather(*(ask(replace(one, affinity=str(episode))) for episode in range(4)))

    found, bodies = asked(lambda n, b: RED, tmp_path, questions)
    assert [colour for colour, _ in found] == ["red"] * 4
    assert len({request for _, request in found}) == len(bodies) == 1


def test_each_attempt_asks_with_a_seed_of_its_own(tmp_path):
    async def questions(one):
        return [
            await asyncio.gather(ask(replace(one, attempt=attempt)), return_exceptions=True)
            for attempt in range(3)
        ]

    _, bodies = asked(lambda n, b: BLACK, tmp_path, questions)
    assert [body["seed"] for body in bodies] == [
        SAMPLING.seed + attempt for attempt in range(3) for _ in ("at first", "corrected")
    ]


def test_a_later_attempt_takes_the_usable_answer_of_an_earlier_one(tmp_path):
    async def questions(one):
        first = await ask(one, "first?")
        return (
            first,
            await ask(replace(one, attempt=2), "first?"),
            await ask(replace(one, attempt=2), "next?"),
        )

    (first, again, _), bodies = asked(lambda n, b: RED, tmp_path, questions)
    assert again == first
    assert [body["seed"] for body in bodies] == [SAMPLING.seed, SAMPLING.seed + 2]


def test_another_revision_of_the_model_is_asked_anew(tmp_path):
    async def questions(one):
        return await ask(one), await ask(replace(one, model_revision="r2")), await ask(one)

    (first, second, third), bodies = asked(lambda n, b: (RED, BLUE)[n], tmp_path, questions)
    assert [colour for colour, _ in (first, second, third)] == ["red", "blue", "red"]
    assert len(bodies) == 2
