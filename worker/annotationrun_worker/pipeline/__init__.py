"""A whole run, step by step: plan, annotate, merge; on one machine, and in the pods of a cluster."""
