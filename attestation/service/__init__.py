"""The attestation service: Verifier, certificate authority and key broker in one attested program."""
