"""The pictures of the README, made by scripts."""
