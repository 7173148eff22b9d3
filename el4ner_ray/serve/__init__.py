"""`el4ner serve`: an HTTP API and a page, on the engines and stages of the batch job."""
