"""Writes two models of a fraction of a million random weights, in seconds, for vLLM to serve.

    make_tiny_model.py FOLDER

FOLDER/vision takes images (Idefics3 with a llama as text part), FOLDER/text does not (the llama alone). What
they say means nothing, but for a leaning to printable text, short strings and short numbers, so that answers
end, and some of them can be used; what is real is the server around them: protocol, limits, structured
output, metrics.
Runs in the environment that ``environment.sh`` makes.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

CONTEXT_TOKENS: Final = 65536
IMAGE_PIXELS: Final = 112
PATCH_PIXELS: Final = 14
SCALE_FACTOR: Final = 2
"""Patches of so many rows and columns become one token."""
IMAGE_TOKENS: Final = (IMAGE_PIXELS // PATCH_PIXELS // SCALE_FACTOR) ** 2
HIDDEN: Final = 64

_PAD, _START, _END, _IMAGE = "<|pad|>", "<|im_start|>", "<end_of_utterance>", "<image>"
_SPECIAL: Final = (
    _PAD,
    _START,
    _END,
    _IMAGE,
    "<fake_token_around_image>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)
_SENTENCES: Final = (
    "The robot picks up the blue block and places it on the green pad.",
    'Answer with JSON: {"question": "Where is the block?", "answer": {"label": "block", "count": 1}}',
    "0 1 2 3 4 5 6 7 8 9 seconds, subtasks, description, detections, bbox, point, relation, attribute.",
)
_CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def main(arguments: Sequence[str]) -> None:
    """Write both models."""
    (name,) = arguments
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    text = text_config(tokenizer)
    _save(Path(name) / "text", LlamaForCausalLM(text), tokenizer)
    folder = Path(name) / "vision"
    _save(folder, Idefics3ForConditionalGeneration(vision_config(tokenizer, text)), tokenizer)
    _write(folder / "preprocessor_config.json", IMAGE_PROCESSOR)
    _write(
        folder / "processor_config.json",
        {"processor_class": "Idefics3Processor", "image_seq_len": IMAGE_TOKENS},
    )
    for path in (Path(name), *Path(name).rglob("*")):  # weights are written for their owner alone
        path.chmod(0o755 if path.is_dir() else 0o644)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE that knows every byte, the special tokens, and little more."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=512,
        special_tokens=list(_SPECIAL),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        bos_token=_START,
        eos_token=_END,
        additional_special_tokens=list(_SPECIAL[3:]),
        chat_template=_CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
    )


def text_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """A llama of two layers."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=HIDDEN // 2,
        max_position_embeddings=CONTEXT_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )


def vision_config(tokenizer: PreTrainedTokenizerFast, text: LlamaConfig) -> Idefics3Config:
    """That llama behind a vision transformer of two layers."""
    return Idefics3Config(
        text_config=text.to_dict(),
        vision_config={
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": IMAGE_PIXELS,
            "patch_size": PATCH_PIXELS,
        },
        scale_factor=SCALE_FACTOR,
        image_token_id=tokenizer.convert_tokens_to_ids(_IMAGE),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )


def leaning(text: str) -> float:
    """How much likelier a token is than others; at temperature 0.2, 0.1 makes it 50 times as likely."""
    if not (text.isascii() and text.isprintable()):
        return -2.0  # control characters, and bytes that alone are no text
    if text.strip() == "-":
        return -2.0  # no time and no point is negative
    if text.startswith('"'):
        return 0.08
    if text.isdigit() or text in {".", "e", "E"}:
        return -0.08  # a number of many digits lies outside of every picture and window
    return 0.05 if text in {",", "}", "]"} else 0.0


IMAGE_PROCESSOR: Final = {
    "image_processor_type": "Idefics3ImageProcessorPil",
    "processor_class": "Idefics3Processor",
    "do_convert_rgb": True,
    "do_resize": True,
    "do_image_splitting": False,
    "size": {"longest_edge": IMAGE_PIXELS},
    "max_image_size": {"longest_edge": IMAGE_PIXELS},
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_pad": True,
}


def _save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    with torch.no_grad():  # one number is the same in all states, so its weight in the head is a token's own
        model.get_input_embeddings().weight[:, 0] = 1.0
        model.get_output_embeddings().weight[:, 0] = torch.tensor([leaning(text) for text in texts])
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
