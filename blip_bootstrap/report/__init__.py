"""What is told about a run: figures, the pages of rounds and run, the table at its end, one image's story."""
