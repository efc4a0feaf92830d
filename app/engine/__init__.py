"""The engine: arrays in, arrays out. It knows no HTTP."""
