"""Methods side by side on the same clients: what is compared, tuning, figures, tests, tables, the paper's numbers."""
