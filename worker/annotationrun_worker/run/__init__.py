"""A whole run on one machine: plan, annotate, merge."""
