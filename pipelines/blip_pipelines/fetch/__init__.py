"""Fetching from the web, with guards: one URL to the bytes it answers, or the class of its failure."""
