"""Conditions that a simulation sets its clients: cohorts, faults, attacks and privacy."""
