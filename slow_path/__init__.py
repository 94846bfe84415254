"""Slow path: a VLM that looks at the uncertain videos and answers with reasons, times and a confidence."""
