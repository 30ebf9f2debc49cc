"""The two language columns: their rows, rules, reading and writing."""
