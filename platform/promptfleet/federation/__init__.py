"""One federation: server and clients as plain objects, the round loop, and the fleets that host them."""
