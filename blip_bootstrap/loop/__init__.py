"""The loop: rounds, the artifacts that their steps make, and the Maker that makes only what is missing."""
