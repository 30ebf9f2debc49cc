"""Content-addressed staging of answers and results."""
