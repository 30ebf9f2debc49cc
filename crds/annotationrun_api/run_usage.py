"""What a run has cost: requests, tokens, GPU time; as a sum, and for each hour of video that it annotated."""

from typing import Self

from pydantic import Field

from annotationrun_api.status_types import Count, StatusModel

_HOUR_SECONDS = 3600
_MILLION = 1_000_000
_MOST = (1 << 53) - 1


class RunUsage(StatusModel):
    """Sums over all workers of a run and all their attempts."""

    requests: Count = Field(
        default=0, description="requests: requests to the model that were answered or given up. Default 0."
    )
    answered: Count = Field(default=0, description="answered: requests that got an answer. Default 0.")
    retries: Count = Field(
        default=0, description="retries: times that a request was sent again to get its answer. Default 0."
    )
    prompt_tokens: Count = Field(
        default=0, description="promptTokens: tokens of the prompts, pictures included. Default 0."
    )
    completion_tokens: Count = Field(
        default=0, description="completionTokens: tokens of the answers. Default 0."
    )
    cached_tokens: Count = Field(
        default=0,
        description="cachedTokens: of promptTokens, those that the server had in its cache. Default 0.",
    )
    gpu_seconds: Count = Field(
        default=0, description="gpuSeconds: GPUs times seconds that were held. Default 0: none, or not known."
    )
    video_seconds: Count = Field(
        default=0, description="videoSeconds: length of the episodes with all their results. Default 0."
    )
    gpu_seconds_per_video_hour: Count = Field(
        default=0,
        description="gpuSecondsPerVideoHour: gpuSeconds by the hour of videoSeconds. Default 0: no video.",
    )
    tokens_per_video_hour: Count = Field(
        default=0,
        description="tokensPerVideoHour: promptTokens and completionTokens by the hour of videoSeconds."
        " Default 0: no video.",
    )

    @property
    def tokens(self) -> int:
        """Of prompts and answers."""
        return self.prompt_tokens + self.completion_tokens

    def with_gpu_seconds(self, seconds: int) -> Self:
        """The same with another GPU time."""
        return self._with(gpu_seconds=seconds)

    def with_video_seconds(self, seconds: int) -> Self:
        """The same for another length of video."""
        return self._with(video_seconds=seconds)

    def _with(self, **fields: int) -> Self:
        changed = self.model_copy(update=fields)
        return changed.model_copy(
            update={
                "gpu_seconds_per_video_hour": _by_the_hour(changed.gpu_seconds, changed.video_seconds),
                "tokens_per_video_hour": _by_the_hour(changed.tokens, changed.video_seconds),
            }
        )

    def text(self) -> str:
        """For people, on one line."""
        gpu = [f"{self.gpu_seconds:,} GPU-seconds"] if self.gpu_seconds else []
        counts = [
            _number(self.requests, "request"),
            f"{self.prompt_tokens:,} prompt and {self.completion_tokens:,} output tokens",
            *gpu,
        ]
        if not self.video_seconds or not (self.tokens or self.gpu_seconds):
            return ", ".join(counts)
        gpu = [f"{self.gpu_seconds_per_video_hour:,} GPU-seconds"] if gpu else []
        hourly = " and ".join([*gpu, f"{_rounded(self.tokens_per_video_hour)} tokens"])
        return f"{', '.join(counts)}; {hourly} a video-hour"


def _by_the_hour(amount: int, video_seconds: int) -> int:
    return min(_MOST, round(amount * _HOUR_SECONDS / video_seconds)) if video_seconds else 0


def _number(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def _rounded(tokens: int) -> str:
    return f"{tokens / _MILLION:,.1f} M" if tokens >= _MILLION // 10 else f"{tokens:,}"
