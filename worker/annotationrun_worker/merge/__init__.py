"""From staged rows to a dataset LeRobot loads."""
