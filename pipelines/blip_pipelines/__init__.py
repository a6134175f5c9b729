"""What every step of blip-bootstrap computes with Ray."""
