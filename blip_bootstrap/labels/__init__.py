"""What people, or a truth file, say of a sample of texts."""
