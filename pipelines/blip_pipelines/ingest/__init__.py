"""Brings data in: URL lists are downloaded, annotated sets are read, and pictures are stored at one size."""
