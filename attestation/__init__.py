"""Who is it, and is it what we expect? Evidence, claims, appraisal, and the service that issues identities and keys."""
