"""Many runs by one command: which jobs there are, what has become of each, and going on with the rest."""
