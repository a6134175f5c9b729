"""MED: the image encoder, the text stack, VQA."""
