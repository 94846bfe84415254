"""What the service keeps: typed tables, sessions over SQLite or PostgreSQL, migrations and repositories."""
