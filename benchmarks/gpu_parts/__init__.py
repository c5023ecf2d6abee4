"""Parts of ``benchmarks/gpu.py``, each a process of its own: ``python -m gpu_parts.NAME``."""
