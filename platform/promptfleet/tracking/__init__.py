"""Record of all runs: MLflow on an embedded SQLite file, tables, states and figures.

Only the process that drives a federation or a sweep writes here; MLflow and matplotlib are imported when first used.
"""
