"""The FL server: an attested program that conducts jobs and sees sums."""
