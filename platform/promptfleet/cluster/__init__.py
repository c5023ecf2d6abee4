"""Ray for this platform: sessions, helper processes, files on nodes, and the fork server."""
