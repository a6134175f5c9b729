"""Captioners that people plug in: the interface, the registry, and those that are built in."""
