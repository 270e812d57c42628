"""The database of an installation: how it is opened and migrated, its tables, and who writes when."""
