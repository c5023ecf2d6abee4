"""Datasets, their partition over clients, and the store of their encoded features."""
