"""Pictures and texts as models take them: decoding, augmentation, pixels, tokens, words."""
