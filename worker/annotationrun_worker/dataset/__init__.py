"""Reading LeRobot v3.0 datasets: metadata, episodes, timestamps."""
