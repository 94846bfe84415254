"""Video input: open, decode in a sandbox, sample."""
