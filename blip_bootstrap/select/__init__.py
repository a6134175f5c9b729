"""Which captions become pairs: the selection rule as SQL, and its calibration by labels."""
