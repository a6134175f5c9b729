"""What is watched of a training beside its losses: pace, spikes, and the trackers that are told."""
