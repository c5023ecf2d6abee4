"""The pool of experts, and the search in it."""
