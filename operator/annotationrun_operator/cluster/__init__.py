"""All that speaks with the API server and with the pods of runs."""
