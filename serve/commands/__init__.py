"""The commands of `guard`, one file per group."""
