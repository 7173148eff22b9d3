"""`ray job submit -- python jobs/bench.py INPUT... --pool POOL --output DIR`: `el4ner annotate` to measure its speed.

It never resumes, and prints run.json. `el4ner plan --run DIR` turns that into hours and a price for a larger corpus.
"""

import sys

from el4ner_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["annotate", "--json", "--no-resume"]
    main()
