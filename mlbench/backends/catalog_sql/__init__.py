"""The catalog in SQLite (PostgreSQL later), through SQLAlchemy Core."""
