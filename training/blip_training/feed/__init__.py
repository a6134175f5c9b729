"""From tables to batches: which sample stands at which place of which step, and the row groups that a worker reads."""
