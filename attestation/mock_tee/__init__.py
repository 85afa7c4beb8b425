"""A development vendor: signs evidence in the vendors' formats with roots of its own. Nothing of it is hardware."""
