"""`omni batch`: many recorded queries to as many spoken replies, in several processes, killed and begun again at will."""
