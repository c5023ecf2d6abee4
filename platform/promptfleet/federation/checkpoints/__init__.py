"""Checkpoints of a federation, and the folder that holds them."""
