"""Models on disk: this package's format, transformers' BLIP folders, the released .pth files."""
