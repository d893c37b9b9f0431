"""Each module of this package breaks in its own way. Nobody should install it but to see what Lensmith says."""
