"""How tensors travel and rest: chunks, sealed blobs, and the spool in which masked vectors become one sum."""
