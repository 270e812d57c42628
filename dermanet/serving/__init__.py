"""Serving: the logged scorer, the model that follows an alias, and the HTTP application."""
