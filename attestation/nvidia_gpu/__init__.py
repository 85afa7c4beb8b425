"""NVIDIA GPUs and NVSwitches: bytes of an SPDM measurement report to claims, claims to findings."""
