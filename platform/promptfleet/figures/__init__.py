"""Figures of federations and sweeps: plain values in, a matplotlib Figure out (no pyplot: they run in a thread)."""
