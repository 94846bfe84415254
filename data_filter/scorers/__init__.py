"""Influence scorers, one per file; the file name is the registry key."""
