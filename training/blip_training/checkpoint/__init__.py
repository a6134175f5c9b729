"""Models on disk: our format, transformers' BLIP, the released .pth."""
