"""Which captions become pairs: the rule, as SQL, and its calibration by labels."""
