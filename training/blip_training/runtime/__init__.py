"""Processes, memory, and where models are found: what training and evaluation run on."""
