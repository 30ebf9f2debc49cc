#!/bin/sh
# `vllm serve` with what a machine without a GPU needs. Chunked prefill is off, as vLLM 0.32 on CPUs dies of a
# request with a seed whose prompt is prefilled in pieces.
exec vllm serve "$@" --dtype=bfloat16 --enforce-eager --no-enable-chunked-prefill
