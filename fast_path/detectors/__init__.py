"""Detectors, one file each: frames in, scores out."""
