"""How results look: the versioned JSON record and the terminal."""
