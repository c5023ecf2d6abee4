"""Parts of ``benchmarks/gpu.py``, each a separate process: ``python -m gpu_parts.NAME``."""
