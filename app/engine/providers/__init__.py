"""Which execution providers are here, and in which order they are tried."""
