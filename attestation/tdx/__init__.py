"""Intel TDX: bytes of a quote to claims, claims to findings, and the event log behind the claims."""
