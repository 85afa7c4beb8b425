"""Who takes part? From a project to identities, documents and start-up kits."""
