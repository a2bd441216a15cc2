"""Makes the demo model pack anew: a detector and two embedders trained on rendered faces, and their measure.

The only place that imports torch (extra `train`); `data` and `evaluate` do without it.
"""
