"""Validating: is a snapshot's data fit to train on? Tables in, a verdict with its figures and a page for people out."""
