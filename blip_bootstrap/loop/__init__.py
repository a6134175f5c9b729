"""The loop: rounds, the artifacts that they leave, and the Maker that makes only what is missing."""
