"""Where people and programs enter: the `guard` command, the service, and what they write."""
