"""What a served model is watched by: what it answered. Never an image."""
