"""The quickstart's fine-tuned model through the tools that others use, timed in one run with the files made here."""
