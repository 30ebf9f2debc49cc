"""Frames of an episode: which one, decoded in a child process, cached."""
