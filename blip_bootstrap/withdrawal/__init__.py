"""Taking rows out of a run for good: their pictures, texts and URLs, wherever the run has them."""
