"""One question, and all that it takes to ask it over HTTP."""

import asyncio
from contextlib import asynccontextmanager

from pydantic import BaseModel, ConfigDict
from tests.support.openai_server import scripted_server

from annotationrun_worker.errors import AnswerError
from annotationrun_worker.modules.base import Text
from annotationrun_worker.staging.store import StagingStore
from annotationrun_worker.vlm.ask import Asker
from annotationrun_worker.vlm.client import VlmClient
from annotationrun_worker.vlm.messages import text_part
from annotationrun_worker.vlm.request import Question, Sampling
from annotationrun_worker.vlm.server import NO_API_KEY, ServerSettings

SAMPLING = Sampling(
    model="m",
    temperature=0.2,
    seed=7,
    max_tokens=64,
    chat_template_kwargs={"enable_thinking": False},
    reasoning_effort=None,
)


class Colour(BaseModel):
    model_config = ConfigDict(extra="forbid")
    colour: Text


def refuse_black(answer: Colour) -> str:
    if answer.colour == "black":
        raise AnswerError("black is no colour")
    return answer.colour


@asynccontextmanager
async def asker(base_url, folder, *, api_key=NO_API_KEY, say=lambda text: None, **settings):
    defaults = {
        "request_timeout_seconds": 10,
        "requests_in_flight": 4,
        "structured_outputs": "Auto",
        "context_tokens": 4096,
    }
    client = VlmClient(ServerSettings(base_urls=[base_url], model="m", **defaults | settings), api_key, say)
    try:
        yield Asker(client, StagingStore(folder), SAMPLING, model_revision="r1")
    finally:
        await client.close()


async def ask(one_asker, text="which colour?"):
    return await one_asker.ask(Question("colour", [text_part(text)], Colour), refuse_black)


def ask_once(script, folder, **settings):
    async def run():
        with scripted_server(script) as server:
            async with asker(server.base_url, folder, **settings) as one:
                return await ask(one), server.bodies, one.client.usage

    return asyncio.run(run())
