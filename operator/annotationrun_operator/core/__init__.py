"""Decisions: what is to become of a run, by what is seen of it. Pure: no API, no clock, no threads."""
