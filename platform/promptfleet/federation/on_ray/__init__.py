"""The fleet of Ray actors."""
