"""How does a job run? Server, sites, trainers, secure aggregation, and what a data scientist touches."""
