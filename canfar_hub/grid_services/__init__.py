"""Two services that sessions of embedded mode act with: one for groups (GMS), one for certificates (cred)."""
