"""``memory`` rows: what the robot has done so far, one subtask after the other, from their texts alone.

It builds on subtasks that were seen, and looks at no frame itself.
"""

from collections.abc import Sequence
from itertools import pairwise

from pydantic import BaseModel, ConfigDict

from annotationrun_worker.annotate.answer_text import MemoryLine
from annotationrun_worker.annotate.context import EpisodeContext
from annotationrun_worker.annotate.spans import Subtask
from annotationrun_worker.rows import StagedRow
from annotationrun_worker.vlm.messages import text_part
from annotationrun_worker.vlm.request import Question

PROMPTS = ("memory",)


class MemoryAnswer(BaseModel):
    """Answer to the prompt ``memory``."""

    model_config = ConfigDict(extra="forbid")
    memory: MemoryLine


async def remember_subtasks(context: EpisodeContext, subtasks: Sequence[Subtask]) -> list[StagedRow]:
    """A ``memory`` row at the start of each subtask but the first; each is made from the one before it.

    Raises:
        AnswerError: an answer stays unusable.
    """
    rows: list[StagedRow] = []
    memory = ""
    for finished, following in pairwise(subtasks):
        text = context.prompt("memory", finished=finished.text, memory=memory)
        memory, request = await context.asker.ask(
            Question("memory", [text_part(text)], MemoryAnswer), lambda answer: answer.memory
        )
        rows.append(
            StagedRow(
                frame=following.frame, role="assistant", style="memory", content=memory, request=request
            )
        )
    return rows
