"""The demo: a dataset with known truth, and a model that looks at the pixels."""
