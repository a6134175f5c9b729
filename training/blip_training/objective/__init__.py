"""ITC, ITM and LM (section 3.2), and what they need of micro-batches, workers, momentum encoder and queue."""
