"""The parts of one collecting run: images asked for, judged and stored, and evidence about their hosts."""
