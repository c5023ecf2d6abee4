"""Pretraining of glyph-clip: rendered glyphs, captions, and a small contrastive training job."""
