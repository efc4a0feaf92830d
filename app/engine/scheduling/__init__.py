"""Requests become runs, within the budget of the process."""
