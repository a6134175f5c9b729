"""Public benchmarks: their files as their publishers ship them, and what a model scores on them."""
