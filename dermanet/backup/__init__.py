"""Backups: databases at one moment, stores of files, and the folder that both are kept in."""
