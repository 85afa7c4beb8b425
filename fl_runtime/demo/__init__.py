"""The demonstration: a whole federation on one machine, honest and attacked, with a mock TEE."""
