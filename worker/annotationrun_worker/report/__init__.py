"""What a dataset holds, for people to read."""
