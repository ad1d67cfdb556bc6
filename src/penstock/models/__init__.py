"""What a model is: files to weights, tokenizer, chat template, architecture."""
