"""Distils a training set: influence scorers, selectors, label audit and annotation picking."""
