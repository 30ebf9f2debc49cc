"""The Hugging Face Hub: repositories read file by file, and commits pushed.

Transfers go by plain HTTP and Git LFS, which every mirror and proxy of the Hub speaks; hf_xet would need a
content-addressed store of its own beside the Hub. ``session`` sees to that.
"""
