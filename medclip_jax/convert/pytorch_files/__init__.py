"""Python files that an export carries: they need PyTorch or Pillow, and nothing of this package."""
