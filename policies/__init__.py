"""What counts as violating, for whom: policy files, layers, personal edits, demonstrations. Imports only `guard`."""
