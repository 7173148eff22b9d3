"""`python -m el4ner_ray` is `el4ner`."""

from el4ner_ray.cli import main

main()
