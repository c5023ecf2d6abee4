"""Encoding of images and class names as the features that methods read."""
