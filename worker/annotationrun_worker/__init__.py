"""The worker: reads a LeRobot dataset, asks the model, stages the answers, merges them into a dataset."""
