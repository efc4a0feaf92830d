"""How good a model is, with the evidence."""
