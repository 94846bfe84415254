"""Encoders, one file each: bursts of frames in, embeddings out."""
