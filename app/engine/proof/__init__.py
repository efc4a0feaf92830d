"""What a model does here is tried, compared, measured, and put into a plan."""
