"""Guesses at what comes next, checked several at once by the model itself."""
