"""Brings data in: what lists name is downloaded, annotated sets are read, and pictures are stored at one size."""
