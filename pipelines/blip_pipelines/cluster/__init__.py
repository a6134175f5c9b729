"""Runs the work of a step, here or on Ray: the session, its CPUs and GPUs, and workers' errors and progress."""
