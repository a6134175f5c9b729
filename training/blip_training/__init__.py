"""MED, its losses and its training (BLIP, sections 3.1, 3.2 and 4.1) in plain torch."""
