"""Evaluation of a federation: named sets of samples, scores and their means, and the rounds that are evaluated."""
