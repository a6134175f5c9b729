"""From outside into tables: lists, downloads, pictures, annotated sets."""
