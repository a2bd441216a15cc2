"""Release: the files that the Stash Sense sidecar loads, their manifest, and the verification of any such release."""
