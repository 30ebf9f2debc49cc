"""Talking to the vision-language model: messages, requests, answers."""
