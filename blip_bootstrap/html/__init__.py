"""Pieces of pages: elements, charts, galleries."""
