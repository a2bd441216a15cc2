"""Faces: model packs, decoding, detection, alignment, quality, the streaming worker and embedding."""
