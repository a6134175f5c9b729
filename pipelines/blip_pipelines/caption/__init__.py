"""The captioning step: images in, captions with scores out."""
