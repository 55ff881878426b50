"""A real PostgreSQL and a real Redis out of Python wheels, started and stopped with the program.

The wheels' own Python layers are not imported: as root and at exit they do things that we would not.
"""

from blindpost.core.embedded.stores import EmbeddedStores, StoreUrls, running_database

__all__ = ["EmbeddedStores", "StoreUrls", "running_database"]
