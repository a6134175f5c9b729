"""What a run will cost, measured on a sample."""
