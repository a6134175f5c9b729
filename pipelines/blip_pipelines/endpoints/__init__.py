"""Servers of chat completions: their pool, what they are sent and answer, and what a run may ask of them."""
