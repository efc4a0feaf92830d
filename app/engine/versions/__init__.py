"""Which version of each model answers, while new ones come."""
