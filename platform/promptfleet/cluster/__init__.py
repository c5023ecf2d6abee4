"""Ray as this platform uses it: sessions, helper processes, files on nodes, and the fork server."""
