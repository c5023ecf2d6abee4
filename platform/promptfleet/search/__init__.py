"""Hyperparameter search over whole federations: search files, the study, the trial, the sweep."""
