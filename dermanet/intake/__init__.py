"""Intake: sources, screening, the catalogue and the split by lesion."""
