"""What was kept and dropped, why, and how noisy each source is."""
