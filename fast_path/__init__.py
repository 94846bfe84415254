"""The fast path: encoders, a temporal head, detectors, calibration and routing."""
