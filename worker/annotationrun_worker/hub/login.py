"""The token of whoever has logged in on this machine."""

from huggingface_hub import get_token


def login_token() -> str | None:
    """What ``hf auth login`` keeps; ``None``: nobody did."""
    return get_token()
