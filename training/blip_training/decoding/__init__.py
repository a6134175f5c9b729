"""How a captioner writes: nucleus, beam, greedy."""
