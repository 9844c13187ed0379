"""The embedded OpenID Connect provider, for one machine and for trial: nanoidp behind our own pages."""
