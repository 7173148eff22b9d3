"""The commands of `el4ner`, by what they are about; `cli.py` puts them together."""
