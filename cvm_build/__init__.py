"""What runs inside? Confidential VM images; nothing is built here yet."""
