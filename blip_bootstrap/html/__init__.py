"""What pages consist of: elements, charts, galleries."""
