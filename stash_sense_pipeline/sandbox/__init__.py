"""The sandbox world for demo and tests: invented people, servers that publish them, and a demo model pack.

The model pack recognises only rendered people. Of the package only `cli` imports the sandbox.
"""
