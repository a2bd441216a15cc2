"""Whether this installation is ready: one check a requirement, and the report of all of them. Nothing is changed."""
