"""One module a command: composition and output to the terminal, nothing else."""
