"""Storage of a federation's results: its folder, and an address that holds them."""
