"""Pool of experts, and the search in it."""
