"""Metrics as pure functions, one noun a file. A metric that is not defined on the data is None: never 0, never 1."""
