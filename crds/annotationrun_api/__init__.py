"""The contract shared by operator and worker: the manifest, exit codes, the root of the errors."""
