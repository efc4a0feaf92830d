"""A user's own data as runs."""
