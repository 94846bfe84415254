"""The review page and what it rests on: a queue with claims that expire, decisions that can be undone, statistics."""
