"""The losses of section 3.2, over micro-batches, workers and the queue."""
