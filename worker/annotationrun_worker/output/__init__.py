"""What a merge writes: a change of a dataset, its places, and the record of it."""
