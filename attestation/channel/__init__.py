"""Authenticated channels between the programs: TLS 1.3 both ways, and who the caller is on every call."""
