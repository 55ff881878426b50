"""The database and gateway layer: all SQL and all Redis, and nothing that decides."""
