"""What a federation keeps: results and checkpoints in its folder, and the address that may be its home."""
