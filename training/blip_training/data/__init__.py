"""From tables to batches: shards, pictures, augmentation, tokens."""
