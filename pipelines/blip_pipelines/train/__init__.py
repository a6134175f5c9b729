"""The steps that train or measure a model, here or on a cluster."""
