"""Named entities for document archives: the EL4NER ensemble of small LLMs as a distributed batch job on Ray."""
