"""Talking to the vision-language model: message parts, requests, answers."""
