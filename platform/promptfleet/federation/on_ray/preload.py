"""Imports of a client process, made once by the fork server before any client is started."""

from importlib import import_module

from promptfleet.methods import METHOD_MODULES

for name in ("promptfleet.federation.on_ray.actors", *METHOD_MODULES):
    import_module(name)
