"""Images and class names to the features that methods read."""
