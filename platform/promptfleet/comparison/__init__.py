"""Comparison of methods on the same clients: plan, tuning, figures, tests, tables, the paper's numbers."""
