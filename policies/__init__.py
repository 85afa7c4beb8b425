"""What is allowed, and the record of what was decided: documents, their types, pure decisions."""
