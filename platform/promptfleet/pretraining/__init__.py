"""How glyph-clip was made: rendered glyphs, captions, and a small contrastive training job."""
