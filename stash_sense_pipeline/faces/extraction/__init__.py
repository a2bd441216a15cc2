"""Face extraction: from the bytes of one image to one aligned face, or a reason for rejection."""
