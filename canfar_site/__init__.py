"""One site's settings: models, their file, and clear errors. No behaviour."""
