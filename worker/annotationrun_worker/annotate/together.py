"""Waiting for several questions of one episode at once."""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Coroutine, Iterable
from typing import Any, TypeVar

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


async def finish_batches(
    batches: AsyncIterable[Iterable[Coroutine[Any, Any, Outcome]]], ahead: int
) -> list[Outcome]:
    """Wait for all of all batches, side by side; then raise the first error, as ``finish_all`` does.

    A batch may be dear to make (frames to decode), and large (their pictures): the next one is made while
    fewer than ``ahead`` of those begun are unfinished, and none after an error.

    Raises:
        Exception: the first error of a task, in their order; else the one of ``batches`` themselves.
    """
    begun: list[asyncio.Task[Outcome]] = []
    unfinished: set[asyncio.Task[Outcome]] = set()
    try:
        async for batch in batches:
            new = [asyncio.create_task(one) for one in batch]
            begun += new
            unfinished.update(new)
            while len(unfinished) >= ahead and not any(map(_failed, begun)):
                _, unfinished = await asyncio.wait(unfinished, return_when=asyncio.FIRST_COMPLETED)
            if any(map(_failed, begun)):
                break
    except asyncio.CancelledError:
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
        raise
    except Exception:
        await finish_all(begun)
        raise
    return await finish_all(begun)


def _failed(task: asyncio.Task[Outcome]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
