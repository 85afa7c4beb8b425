"""AMD SEV-SNP: bytes of an attestation report to claims, claims to findings."""
