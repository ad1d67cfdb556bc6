"""What holds a text to a form: grammars, JSON schemas, and how long a model may think."""
