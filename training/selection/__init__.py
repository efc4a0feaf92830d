"""Which candidate is published, and what it is compared with."""
