"""The site: the program at each data owner, and the trainers it starts."""
