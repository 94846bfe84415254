"""Benchmarks, metrics and reports for guardrails."""
