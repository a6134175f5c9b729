"""The process: workers of a training, memory, and where models come from."""
