"""The sandbox world for demo and tests: invented people, servers that publish them, and a demo model pack.

Nothing here is a recogniser of real people, and no other room imports it.
"""
