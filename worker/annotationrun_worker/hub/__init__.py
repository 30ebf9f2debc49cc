"""The Hugging Face Hub: repositories read file by file, and commits pushed."""

import os

# Read by huggingface_hub when it is imported. Transfers go by plain HTTP and Git LFS, which every mirror and
# proxy speaks; hf_xet would need a content-addressed store of its own beside the Hub.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
