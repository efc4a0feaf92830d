"""What people read of a model."""
