"""Pictures that are there more than once: in the lists, or in two of the sets."""
