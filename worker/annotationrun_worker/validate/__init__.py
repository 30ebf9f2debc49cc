"""Is an annotated dataset what LeRobot and we expect? Nothing here writes."""
