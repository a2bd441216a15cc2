"""The terms that all rooms share: record keys, performer records, profile URLs, image hashes."""
