"""Frozen CLIP: loading it, laying out prompts, and encoding them exactly at a fraction of the usual cost."""
