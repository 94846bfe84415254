"""Readers: one file, one way to decode; see `guard.video.reader`."""
