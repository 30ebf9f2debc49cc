"""Waiting for several questions of one episode at once."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

Outcome = TypeVar("Outcome")


async def finish_all(awaitables: Iterable[Awaitable[Outcome]]) -> list[Outcome]:
    """Wait for all of them, side by side; then raise the first error, if there is one.

    Where one fails, the answers of the others are still awaited, and so staged: another try asks only for
    what is missing, and nothing goes on behind it.
    """
    outcomes = await asyncio.gather(*awaitables, return_exceptions=True)
    done: list[Outcome] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        done.append(outcome)
    return done
