"""Where tag vectors come from: the trained tagger, Hugging Face models, tables, the truth."""
