"""The working store: schema, migrations and queries by subject (performers, images, faces, identities, sync state)."""
