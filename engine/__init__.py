"""How training is fast and can stop anywhere."""
