"""Labels: what people, or a truth file, say about a sample of texts."""
